//! Wake-ups of a relay with idle peers.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    Channel, Client, Pings,
    relay::{Kind, Relay},
};

const PEERS: usize = 200;
/// Length of an interval in which CPU usage is compared with the idle threshold.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Length of the measurement: several keep-alive intervals of QUIC.
const MEASUREMENT: Duration = Duration::from_secs(15);
/// Upper bound of voluntary context switches of all threads per second. Measured: 52. With separate
/// timers for each peer it would be 140.
const MAX_WAITS: u64 = 110;

/// The number of voluntary context switches of all threads.
fn waits(relay: &Relay) -> u64 {
    let tasks = relay.process.tasks().unwrap();
    tasks
        // Skips threads that have ended meanwhile.
        .filter_map(|task| task.ok()?.status().ok()?.voluntary_ctxt_switches)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn wakeups_for_idle_peers_are_coalesced() {
    let relay = Relay::start(Kind::Ours, None).await.unwrap();
    let address = relay.address(Channel::Quic).unwrap();
    let clients = Client::many(PEERS, Channel::Quic, &[address], Pings::Answered)
        .await
        .unwrap();
    relay.wait_until_idle(IDLE_INTERVAL).await.unwrap();
    // Timers are aligned after the first keep-alive of each peer.
    sleep(MEASUREMENT / 2).await;
    let before = waits(&relay);
    sleep(MEASUREMENT).await;
    let each_second = (waits(&relay) - before) / MEASUREMENT.as_secs();
    println!("{each_second} waits a second");
    assert!(each_second > 0, "no waits were measured");
    assert!(each_second <= MAX_WAITS, "{each_second} waits a second");

    // libp2p's timers would have a thread: see `crates/futures-timer`.
    let threads: Vec<_> = relay
        .process
        .tasks()
        .unwrap()
        .filter_map(|task| Some(task.ok()?.stat().ok()?.comm))
        .collect();
    assert!(
        !threads.iter().any(|name| name == "futures-timer"),
        "{threads:?}"
    );
    drop(clients);
    relay.end().await.unwrap();
}
