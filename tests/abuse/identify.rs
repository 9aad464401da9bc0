//! Floods of unsolicited identify pushes, also oversized or incomplete, with a false observed address.
//! Expected: the relay does not advertise the address, and ordinary clients are served.

use futures::AsyncWriteExt;
use libp2p::{Multiaddr, StreamProtocol};
use prost::Message;
use test_support::{
    PATIENCE,
    process::Relay,
    raw::{Raw, read_out},
};
use tokio::time::timeout;

use crate::target_relay::TargetRelay;

const IDENTIFY: StreamProtocol = StreamProtocol::new("/ipfs/id/1.0.0");
const PUSH: StreamProtocol = StreamProtocol::new("/ipfs/id/push/1.0.0");
/// An address that is not the relay's.
const FALSE_ADDRESS: &str = "/ip4/203.0.113.9/tcp/4001";

/// The fields of the identify message that these tests use.
#[derive(Clone, PartialEq, Message)]
struct Identify {
    #[prost(bytes = "vec", repeated, tag = "2")]
    listen_addrs: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "3")]
    protocols: Vec<String>,
    #[prost(bytes = "vec", optional, tag = "4")]
    observed_addr: Option<Vec<u8>>,
}

/// An identify message that reports `FALSE_ADDRESS` as the relay's observed address, of at least this
/// many bytes.
fn false_push(bytes: usize) -> Vec<u8> {
    let false_address = FALSE_ADDRESS.parse::<Multiaddr>().unwrap().to_vec();
    let false_push = Identify {
        listen_addrs: vec![false_address.clone(); 10],
        protocols: vec!["/some/protocol".repeat(10); 1 + bytes / 140],
        observed_addr: Some(false_address),
    };
    false_push.encode_length_delimited_to_vec()
}

/// Asserts that neither the relay's identify response nor its reservations contain the false address.
async fn assert_false_address_ignored(relay: &Relay, peer: &mut Raw) {
    let own = [relay.tcp(), relay.quic(), relay.websocket()];
    // The relay resets further streams while it serves its maximum for this peer.
    let identified = async {
        loop {
            if let Ok(mut stream) = peer.open(IDENTIFY).await
                && let (response, Ok(())) = read_out(&mut stream).await
                && !response.is_empty()
            {
                return response;
            }
        }
    };
    let response = timeout(PATIENCE, identified).await.unwrap();
    let response = Identify::decode_length_delimited(response.as_slice()).unwrap();
    let addresses: Vec<_> = response.listen_addrs.into_iter().map(address).collect();
    assert!(!addresses.is_empty());
    for address in addresses {
        assert!(
            own.contains(&address.clone().with_p2p(relay.peer_id).unwrap()),
            "{address}"
        );
    }
    let reservation = peer.reserve().await.reservation.unwrap();
    let addresses: Vec<_> = reservation.addrs.into_iter().map(address).collect();
    assert!(!addresses.is_empty());
    for address in addresses {
        assert!(own.contains(&address), "{address}");
    }
}

fn address(bytes: Vec<u8>) -> Multiaddr {
    bytes.try_into().unwrap()
}

/// Complete pushes, and pushes that never end.
#[tokio::test(flavor = "multi_thread")]
async fn push_flood() {
    const PUSHES: usize = 2000;
    const OPEN: usize = 200;
    let target_relay = TargetRelay::start(&[]).await;
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let mut offender = Raw::new(&address).await;
        let false_push = false_push(3000);
        for _ in 0..PUSHES {
            // The relay resets pushes beyond its limit.
            if let Ok(mut stream) = offender.open(PUSH).await {
                let _ = stream.write_all(&false_push).await;
                let _ = stream.close().await;
            }
        }
        let mut open = Vec::new();
        for _ in 0..OPEN {
            if let Ok(mut stream) = offender.open(PUSH).await {
                let _ = stream.write_all(&false_push[..100]).await;
                let _ = stream.flush().await;
                open.push(stream);
            }
        }
        target_relay.assert_serves().await;
        let mut other = Raw::new(&address).await;
        assert_false_address_ignored(&target_relay.relay, &mut other).await;
        drop(open);
        assert_false_address_ignored(&target_relay.relay, &mut offender).await;
    }
    target_relay.assert_recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_push() {
    const BYTES: usize = 4 * 1024 * 1024;
    let target_relay = TargetRelay::start(&[]).await;
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let mut offender = Raw::new(&address).await;
        for _ in 0..10 {
            let mut stream = offender.open(PUSH).await.unwrap();
            // The relay resets the stream before all bytes are written.
            let _ = stream.write_all(&false_push(BYTES)).await;
            let _ = stream.close().await;
        }
        target_relay.assert_serves().await;
        assert_false_address_ignored(&target_relay.relay, &mut offender).await;
    }
    target_relay.assert_recovers().await;
}
