//! The relay as ping responder.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Stream, ping};
use test_support::{PATIENCE, process::Relay, raw::Raw};
use tokio::time::timeout;

/// Sends a ping in two writes, and verifies the response.
async fn ping(stream: &mut Stream, seed: u8) -> std::io::Result<bool> {
    let ping: [u8; 32] =
        std::array::from_fn(|at| seed.wrapping_mul(31) ^ u8::try_from(at).unwrap());
    let mut answer = [0; 32];
    let exchange = async {
        for piece in [&ping[..20], &ping[20..]] {
            stream.write_all(piece).await?;
            stream.flush().await?;
        }
        stream.read_exact(&mut answer).await
    };
    timeout(PATIENCE, exchange).await.unwrap()?;
    Ok(answer == ping)
}

/// The relay serves two ping streams of a connection; a third one replaces the first.
#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered() {
    let relay = Relay::start(&[]).await;
    for address in [relay.tcp(), relay.quic()] {
        let mut peer = Raw::new(&address).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(peer.open(ping::PROTOCOL_NAME).await.unwrap());
            for round in 0..3 {
                for (seed, stream) in (round..).zip(&mut streams) {
                    assert!(ping(stream, seed).await.unwrap());
                }
            }
        }
        let mut third = peer.open(ping::PROTOCOL_NAME).await.unwrap();
        assert!(ping(&mut third, 0).await.unwrap());
        assert!(ping(&mut streams[1], 1).await.unwrap());
        assert!(ping(&mut streams[0], 2).await.is_err());
    }
    relay.stop().await;
}
