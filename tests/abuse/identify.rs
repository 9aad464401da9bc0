//! What peers say unasked of themselves and of the relay.

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

const ASK: StreamProtocol = StreamProtocol::new("/ipfs/id/1.0.0");
const PUSH: StreamProtocol = StreamProtocol::new("/ipfs/id/push/1.0.0");
/// Where the relay is not.
const ELSEWHERE: &str = "/ip4/203.0.113.9/tcp/4001";

/// What matters here of the message.
#[derive(Clone, PartialEq, Message)]
struct Identify {
    #[prost(bytes = "vec", repeated, tag = "2")]
    listen_addrs: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "3")]
    protocols: Vec<String>,
    #[prost(bytes = "vec", optional, tag = "4")]
    observed_addr: Option<Vec<u8>>,
}

/// A message that says that the relay was seen elsewhere, of at least this many bytes.
fn lie(bytes: usize) -> Vec<u8> {
    let elsewhere = ELSEWHERE.parse::<Multiaddr>().unwrap().to_vec();
    let lie = Identify {
        listen_addrs: vec![elsewhere.clone(); 10],
        protocols: vec!["/some/protocol".repeat(10); 1 + bytes / 140],
        observed_addr: Some(elsewhere),
    };
    lie.encode_length_delimited_to_vec()
}

/// What the relay says of itself, to a peer and in a reservation, does not know of that.
async fn assert_is_not_elsewhere(relay: &Relay, peer: &mut Raw) {
    let own = [relay.tcp(), relay.quic(), relay.websocket()];
    // As long as the relay is busy with streams of this very peer, it resets more of them.
    let answer = async {
        loop {
            if let Ok(mut stream) = peer.open(ASK).await
                && let (said, Ok(())) = read_out(&mut stream).await
                && !said.is_empty()
            {
                return said;
            }
        }
    };
    let said = timeout(PATIENCE, answer).await.unwrap();
    let said = Identify::decode_length_delimited(said.as_slice()).unwrap();
    let addresses: Vec<_> = said.listen_addrs.into_iter().map(address).collect();
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

/// Many messages, and many that never end.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pushes() {
    const PUSHES: usize = 2000;
    const OPEN: usize = 200;
    let target_relay = TargetRelay::start(&[]).await;
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let mut offender = Raw::new(&address).await;
        let lie = lie(3000);
        for _ in 0..PUSHES {
            // Those that come while too many are served are reset.
            if let Ok(mut stream) = offender.open(PUSH).await {
                let _ = stream.write_all(&lie).await;
                let _ = stream.close().await;
            }
        }
        let mut open = Vec::new();
        for _ in 0..OPEN {
            if let Ok(mut stream) = offender.open(PUSH).await {
                let _ = stream.write_all(&lie[..100]).await;
                let _ = stream.flush().await;
                open.push(stream);
            }
        }
        target_relay.assert_serves().await;
        let mut other = Raw::new(&address).await;
        assert_is_not_elsewhere(&target_relay.relay, &mut other).await;
        drop(open);
        assert_is_not_elsewhere(&target_relay.relay, &mut offender).await;
    }
    target_relay.assert_recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_push() {
    const BYTES: usize = 4 * 1024 * 1024;
    let target_relay = TargetRelay::start(&[]).await;
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let mut offender = Raw::new(&address).await;
        for _ in 0..10 {
            let mut stream = offender.open(PUSH).await.unwrap();
            // It is reset before all of it is written.
            let _ = stream.write_all(&lie(BYTES)).await;
            let _ = stream.close().await;
        }
        target_relay.assert_serves().await;
        assert_is_not_elsewhere(&target_relay.relay, &mut offender).await;
    }
    target_relay.assert_recovers().await;
}
