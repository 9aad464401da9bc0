//! Received packets do not disable segmentation offload.

use quinn::{AsyncUdpSocket, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::udp;
use super::*;
use crate::observer::NoObserver;

/// A packet of an unknown version, to which a listener replies with version negotiation.
fn unknown_version() -> Vec<u8> {
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a];
    for id in [[1; 8], [2; 8]] {
        packet.push(8);
        packet.extend(id);
    }
    packet.resize(1200, 0);
    packet
}

/// A socket that can send UDP packets with any header; `None` skips the test.
fn raw_socket() -> Option<Socket> {
    match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) {
        Ok(socket) => Some(socket),
        Err(why) if std::env::var_os("RELAY_TEST_REQUIRE_ALL").is_some_and(|all| all == "1") => {
            panic!("needs the right to open raw sockets ({why})")
        }
        Err(why) => {
            println!("skipped: needs the right to open raw sockets ({why})");
            None
        }
    }
}

#[tokio::test]
async fn packet_from_port_0_does_not_disable_offload() {
    let Some(raw) = raw_socket() else { return };
    let keypair = Keypair::generate_ed25519();
    let config = Config::new(&keypair);
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = Arc::new(udp::UdpSocket::new(socket, NoObserver::shared()).unwrap());
    let address = socket.local_addr().unwrap();
    let segments = socket.max_transmit_segments();
    let _endpoint = quinn::Endpoint::new_with_abstract_socket(
        config.endpoint(),
        Some(config.server().unwrap()),
        Arc::clone(&socket) as Arc<dyn AsyncUdpSocket>,
        Arc::new(TokioRuntime),
    )
    .unwrap();

    let payload = unknown_version();
    let mut packet = vec![0, 0];
    packet.extend(address.port().to_be_bytes());
    packet.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    // No checksum.
    packet.extend([0, 0]);
    packet.extend(&payload);
    raw.send_to(&packet, &SocketAddr::new(address.ip(), 0).into())
        .unwrap();

    // Packets are answered in order, so the first one was handled when the second is answered.
    let client = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    client.send_to(&payload, address).await.unwrap();
    let mut answer = [0; 2048];
    let received = within(client.recv(&mut answer)).await.unwrap();
    assert_eq!(
        answer[1..5],
        [0; 4],
        "version negotiation: {received} bytes"
    );
    assert!(!socket.is_degraded());
    assert_eq!(socket.max_transmit_segments(), segments);
}
