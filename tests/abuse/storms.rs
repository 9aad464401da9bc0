//! Clients that disconnect during or right after connection establishment. Expected: ordinary clients are
//! served, and memory and files are released.

use std::time::Duration;

use futures::AsyncWriteExt as _;
use socket2::SockRef;
use test_support::{process::socket, raw::Raw};
use tokio::task::JoinSet;

use crate::{
    dialler::{Security, dial, negotiate, secured},
    target_relay::TargetRelay,
};

/// TCP resets before the first byte, after multistream-select, and in the middle of the handshake.
#[tokio::test(flavor = "multi_thread")]
async fn socket_resets() {
    const STORMS: usize = 20;
    const EACH: usize = 150;
    let target_relay = TargetRelay::start(&[]).await;
    let address = socket(&target_relay.relay.tcp());
    let mut storms = JoinSet::new();
    for _ in 0..STORMS {
        storms.spawn(async move {
            for turn in 0..EACH {
                let mut socket = dial(address).await;
                match turn % 3 {
                    0 => {}
                    1 => drop(socket.write_all(b"\x13/multi").await),
                    _ => negotiate(&mut socket, "/noise").await,
                }
                let socket = socket.into_inner();
                SockRef::from(&socket)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
        });
    }
    while storms.join_next().await.transpose().unwrap().is_some() {}
    target_relay.assert_recovers().await;
}

/// Connections that are closed as soon as they are established.
#[tokio::test(flavor = "multi_thread")]
async fn short_connections() {
    const STORMS: usize = 8;
    const EACH: usize = 20;
    let target_relay = TargetRelay::start(&[]).await;
    let mut storms = JoinSet::new();
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()]
        .into_iter()
        .cycle()
        .take(STORMS)
    {
        storms.spawn(async move {
            for _ in 0..EACH {
                drop(Raw::new(&address).await);
            }
        });
    }
    while storms.join_next().await.transpose().unwrap().is_some() {}
    for security in [Security::Noise, Security::Tls] {
        for _ in 0..EACH {
            // Closes before muxer negotiation.
            drop(secured(&target_relay.relay, security).await);
        }
    }
    target_relay.assert_recovers().await;
}
