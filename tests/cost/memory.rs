//! How much memory the relay holds for a peer that does nothing, and that it gives it back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    Channel, Client, Pings,
    relay::{Kind, Relay},
};

/// Who comes and leaves first, so that what is set up once is not counted; and who is counted.
const FIRST: usize = 20;
const PEERS: u32 = 300;
/// How long a look takes at whether the relay rests.
const LOOK: Duration = Duration::from_millis(300);
/// How long the relay may take to give memory back.
const PATIENCE: Duration = Duration::from_secs(30);
/// What may be left of the memory of those who left: maps that have grown, and pages that are not
/// quite empty. Counted: 0.3 over Noise, 0.25 over TLS and 0.1 over QUIC, which is 1.2 MiB.
const KEPT: f64 = 0.45;

async fn come(count: usize, channel: Channel, relay: &Relay) -> Vec<Client> {
    let address = relay.address(channel).unwrap();
    let clients = Client::many(count, channel, &[address], Pings::Answered)
        .await
        .unwrap();
    relay.rests(LOOK).await.unwrap();
    clients
}

/// Each peer takes not more than so many KiB, and most of that is given back.
async fn assert_holds_at_most(channel: Channel, kib: f64) {
    let relay = Relay::start(Kind::Ours, None).await.unwrap();
    Client::all_leave(come(FIRST, channel, &relay).await)
        .await
        .unwrap();
    relay.rests(LOOK).await.unwrap();
    let start = relay.resident_kib().unwrap();

    let clients = come(PEERS as usize, channel, &relay).await;
    let taken = relay.resident_kib().unwrap() - start;
    let each = taken / f64::from(PEERS);
    println!("{}: {each:.1} KiB a peer", channel.name());
    assert!(each <= kib, "{each:.1} KiB a peer");

    Client::all_leave(clients).await.unwrap();
    let since = Instant::now();
    loop {
        let kept = relay.resident_kib().unwrap() - start;
        if kept <= KEPT * taken {
            println!("{}: {kept} of {taken} KiB are kept", channel.name());
            break;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "{kept} KiB of {taken} are not given back"
        );
        sleep(LOOK).await;
    }
    relay.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_noise() {
    // Counted: 13.9.
    assert_holds_at_most(Channel::Noise, 18.5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    // Counted: 15.7.
    assert_holds_at_most(Channel::Tls, 21.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quic() {
    // Counted: 48.0.
    assert_holds_at_most(Channel::Quic, 60.0).await;
}
