//! Admission of incoming connections, and the addresses of listeners.

use std::net::{IpAddr, Ipv6Addr};

use libp2p::multiaddr::Protocol;
use quinn::ConnectionError;
use quinn::rustls::client::ResolvesClientCert;
use quinn::rustls::sign::CertifiedKey;

use super::*;

/// Dials with plain quinn, and returns the error.
async fn refusal(server: SocketAddr) -> ConnectionError {
    let connecting = client().connect(server, "any").unwrap();
    // A timeout of the handshake would take longer than this.
    tokio::time::timeout(Duration::from_secs(1), connecting)
        .await
        .expect("an answer at once")
        .expect_err("a refusal")
}

#[tokio::test]
async fn connections_beyond_max_pending_are_refused() {
    let keypair = Keypair::generate_ed25519();
    let server = Server::with(&keypair, LOOPBACK, |config| config.max_pending = 0).await;
    assert_refused(&refusal(server.socket()).await);
}

#[tokio::test]
async fn connection_is_refused_when_its_upgrade_is_dropped() {
    let mut transport = QuicTransport::new(Config::new(&Keypair::generate_ed25519())).unwrap();
    transport
        .listen_on(ListenerId::next(), LOOPBACK.parse().unwrap())
        .unwrap();
    let TransportEvent::NewAddress { listen_addr, .. } =
        poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await
    else {
        panic!("no address");
    };
    let server = address::parse(&listen_addr).unwrap().0;
    let deny = async {
        let event = poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await;
        let TransportEvent::Incoming { upgrade, .. } = event else {
            panic!("not an incoming connection");
        };
        drop(upgrade);
    };
    let (error, ()) = tokio::join!(refusal(server), deny);
    assert_refused(&error);
}

/// The type of the first packet that a client gets in reply (RFC 9000, section 17.2).
async fn first_answer(server: SocketAddr) -> u8 {
    let (middle, probe) = (udp(), udp());
    let endpoint = client();
    let _connecting = endpoint
        .connect(middle.local_addr().unwrap(), "any")
        .unwrap();
    let exchange = tokio::task::spawn_blocking(move || {
        let mut packet = [0; 2048];
        // A client hello consists of several packets; TLS does not answer the first one alone.
        for _ in 0..2 {
            let len = middle.recv(&mut packet).unwrap();
            probe.send_to(&packet[..len], server).unwrap();
        }
        probe.recv(&mut packet).unwrap();
        packet[0] >> 4 & 0b11
    });
    within(exchange).await.unwrap()
}

const INITIAL: u8 = 0;
const RETRY: u8 = 3;

#[tokio::test]
async fn address_is_validated_by_retry_under_load() {
    let keypair = Keypair::generate_ed25519();
    let mut server = Server::with(&keypair, LOOPBACK, |config| config.retry_above = 0).await;
    assert_eq!(first_answer(server.socket()).await, RETRY);
    // A client that answers Retry is accepted.
    let (_ours, _theirs) = server.pair().await;
}

/// Packets with forged addresses do not use up the handshakes of validated addresses.
#[tokio::test]
async fn handshakes_of_unvalidated_addresses_are_bounded_together() {
    const UNVALIDATED: usize = 4;
    let keypair = Keypair::generate_ed25519();
    let mut server = Server::with(&keypair, LOOPBACK, |config| {
        config.retry_above = UNVALIDATED;
        config.handshake_timeout = Duration::from_secs(3600);
        config.idle_timeout = Duration::from_secs(3600);
    })
    .await;
    let mut answers = Vec::new();
    for _ in 0..3 * UNVALIDATED {
        answers.push(first_answer(server.socket()).await);
    }
    let (begun, retried) = answers.split_at(UNVALIDATED);
    assert_eq!(begun, [INITIAL; UNVALIDATED]);
    assert_eq!(retried, [RETRY; 2 * UNVALIDATED]);
    // A client with a validated address is accepted.
    server.pair().await;
}

#[tokio::test]
async fn address_is_not_validated_by_retry_without_load() {
    let server = Server::start().await;
    assert_eq!(first_answer(server.socket()).await, INITIAL);
}

#[tokio::test]
async fn undecodable_packets_do_not_affect_connections() {
    let mut server = Server::start().await;
    let (ours, theirs) = server.pair().await;
    let socket = udp();
    for n in 0..500_usize {
        let mut packet = pattern(n * 3);
        if let Some(first) = packet.first_mut().filter(|_| n % 2 == 0) {
            // The first byte of an Initial packet.
            *first = 0xc3;
        }
        if n % 4 == 0 && packet.len() > 5 {
            packet[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        socket.send_to(&packet, server.socket()).unwrap();
    }
    let exchange = async {
        let (mut send, mut recv) = theirs.open_bi().await.unwrap();
        send.write_all(b"still there?").await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(100).await.unwrap(), b"still there?");
        theirs.close(0_u8.into(), b"");
    };
    within(async { tokio::join!(exchange, echo(ours)) }).await;
    server.pair().await;
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[quinn::rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn client_without_a_certificate_is_rejected() {
    let mut server = Server::start().await;
    let mut tls = libp2p::tls::make_client_config(&Keypair::generate_ed25519(), None).unwrap();
    tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    let endpoint = client_with(tls);
    let _connecting = endpoint.connect(server.socket(), "any").unwrap();
    let ServerEvent::Failed(Error::Connection(_)) = server.next().await else {
        panic!("not a failed handshake");
    };
    server.pair().await;
}

#[tokio::test]
async fn unspecified_address_is_reported_as_the_addresses_of_the_interfaces() {
    let mut server = Server::with(
        &Keypair::generate_ed25519(),
        "/ip4/0.0.0.0/udp/0/quic-v1",
        |_| (),
    )
    .await;
    let port = server.socket().port();
    while server.socket().ip() != Ipv4Addr::LOCALHOST {
        assert!(!server.socket().ip().is_unspecified());
        assert!(server.socket().is_ipv4());
        let ServerEvent::Address(addr) = server.next().await else {
            panic!("not an address");
        };
        server.addr = addr;
    }
    assert_eq!(server.socket().port(), port);
    let (_ours, _theirs) = server.pair().await;
}

#[tokio::test]
async fn both_address_families_share_a_port() {
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("skipped: needs IPv6");
        return;
    }
    let keypair = Keypair::generate_ed25519();
    let v4 = Server::with(&keypair, "/ip4/0.0.0.0/udp/0/quic-v1", |_| ()).await;
    let port = v4.socket().port();
    let mut v6 = Server::with(&keypair, &format!("/ip6/::/udp/{port}/quic-v1"), |_| ()).await;
    let localhost = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
    while v6.socket() != localhost {
        let IpAddr::V6(ip) = v6.socket().ip() else {
            panic!("not an address of IPv6");
        };
        assert!(!ip.is_unicast_link_local() && !ip.is_unspecified());
        let ServerEvent::Address(addr) = v6.next().await else {
            panic!("not an address");
        };
        v6.addr = addr;
    }

    let mut client = QuicTransport::new(Config::new(&Keypair::generate_ed25519())).unwrap();
    let dial = client.dial(v6.addr.clone(), AS_DIALER).unwrap();
    let (dialled, _ours) = tokio::join!(within(dial), v6.connection());
    assert_eq!(dialled.unwrap().0, v6.peer);
}

#[tokio::test]
async fn incoming_connection_is_reported_with_its_actual_addresses() {
    let mut transport = QuicTransport::new(Config::new(&Keypair::generate_ed25519())).unwrap();
    let any = "/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap();
    transport.listen_on(ListenerId::next(), any).unwrap();
    let endpoint = client();
    let mut connecting = None;
    let (local, remote) = within(async {
        loop {
            match poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await {
                TransportEvent::NewAddress { listen_addr, .. } => {
                    let port = address::parse(&listen_addr).unwrap().0.port();
                    let server = (Ipv4Addr::LOCALHOST, port).into();
                    connecting.get_or_insert_with(|| endpoint.connect(server, "any").unwrap());
                }
                TransportEvent::Incoming {
                    local_addr,
                    send_back_addr,
                    ..
                } => {
                    break (local_addr, send_back_addr);
                }
                _ => panic!("unexpected event"),
            }
        }
    })
    .await;
    assert_eq!(remote, address::format(endpoint.local_addr().unwrap()));
    assert_eq!(
        local.iter().next(),
        Some(Protocol::Ip4(Ipv4Addr::LOCALHOST))
    );
}

#[tokio::test]
async fn other_addresses_are_not_supported() {
    use libp2p::core::transport::TransportError::MultiaddrNotSupported;

    let mut transport = QuicTransport::new(Config::new(&Keypair::generate_ed25519())).unwrap();
    let tcp: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    let listen = transport.listen_on(ListenerId::next(), tcp);
    assert!(matches!(listen, Err(MultiaddrNotSupported(_))));

    let hole_punch = DialOpts {
        role: Endpoint::Listener,
        port_use: PortUse::Reuse,
    };
    for (addr, opts) in [
        ("/ip4/127.0.0.1/tcp/9000", AS_DIALER),
        ("/ip4/127.0.0.1/udp/0/quic-v1", AS_DIALER),
        ("/ip4/0.0.0.0/udp/9000/quic-v1", AS_DIALER),
        ("/ip4/127.0.0.1/udp/9000/quic-v1", hole_punch),
    ] {
        let dial = transport.dial(addr.parse().unwrap(), opts);
        assert!(matches!(dial, Err(MultiaddrNotSupported(_))), "{addr}");
    }
}
