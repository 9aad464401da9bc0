//! Wake-ups of a relay with idle peers.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    Channel, Client, Pings,
    relay::{Kind, Relay},
};

const PEERS: usize = 200;
/// How long a look takes at whether the relay rests.
const LOOK: Duration = Duration::from_secs(1);
/// How long it is watched: a few times what it takes until a silent peer over QUIC is asked.
const WATCHED: Duration = Duration::from_secs(15);
/// How often all threads may begin to wait, for each second. Counted: 52. With a timer for each peer
/// at a separate moment it would be 140.
const MOST_WAITS: u64 = 110;

/// How often the threads of a relay have waited.
fn waits(relay: &Relay) -> u64 {
    let tasks = relay.process.tasks().unwrap();
    tasks
        // One that has ended meanwhile has none to tell of.
        .filter_map(|task| task.ok()?.status().ok()?.voluntary_ctxt_switches)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_peers_do_not_wake_it_one_by_one() {
    let relay = Relay::start(Kind::Ours, None).await.unwrap();
    let address = relay.address(Channel::Quic).unwrap();
    let clients = Client::many(PEERS, Channel::Quic, &[address], Pings::Answered)
        .await
        .unwrap();
    relay.rests(LOOK).await.unwrap();
    // Until each peer has been probed once, the timers are not aligned.
    sleep(WATCHED / 2).await;
    let before = waits(&relay);
    sleep(WATCHED).await;
    let each_second = (waits(&relay) - before) / WATCHED.as_secs();
    println!("{each_second} waits a second");
    assert!(each_second > 0, "nothing was counted");
    assert!(each_second <= MOST_WAITS, "{each_second} waits a second");

    // libp2p's timers would have one: see `crates/futures-timer`.
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
