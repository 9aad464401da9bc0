//! How much memory the relay holds for a peer that does nothing, and that it gives it back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    Channel, Client, Pings,
    allocations::allocations,
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

/// The peak of a relay's heap, in bytes, with this many peers.
async fn most_on_heap(channel: Channel, peers: usize) -> u64 {
    let whole_life = allocations(channel, async move |relay| {
        let relays = [relay];
        let clients = Client::many(peers, channel, &relays, Pings::Answered).await;
        Client::all_leave(clients.unwrap()).await.unwrap();
    });
    whole_life.await.bytes_max
}

/// Each peer takes at most this many bytes of the heap.
///
/// What of that is resident depends on the machine: on its pages, and on the libraries' code for its
/// processor.
async fn assert_takes_at_most(channel: Channel, bytes: u64) {
    let few = most_on_heap(channel, FIRST).await;
    let many = most_on_heap(channel, FIRST + PEERS as usize).await;
    let each = many.saturating_sub(few) / u64::from(PEERS);
    println!("{}: {each} bytes of the heap a peer", channel.name());
    assert!(each > 0, "nothing was counted");
    assert!(each <= bytes, "{each} bytes a peer");
}

/// Most of the memory that peers took is given back.
async fn assert_is_given_back(channel: Channel) {
    let relay = Relay::start(Kind::Ours, None).await.unwrap();
    Client::all_leave(come(FIRST, channel, &relay).await)
        .await
        .unwrap();
    relay.rests(LOOK).await.unwrap();
    let start = relay.resident_kib().unwrap();

    let clients = come(PEERS as usize, channel, &relay).await;
    let taken = relay.resident_kib().unwrap() - start;
    let each = taken / f64::from(PEERS);
    println!("{}: {each:.1} KiB are resident for a peer", channel.name());

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
    // Counted: 9,200.
    assert_takes_at_most(Channel::Noise, 12_000).await;
    assert_is_given_back(Channel::Noise).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    // Counted: 13,100.
    assert_takes_at_most(Channel::Tls, 17_000).await;
    assert_is_given_back(Channel::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quic() {
    // Counted: 50,600.
    assert_takes_at_most(Channel::Quic, 64_000).await;
    assert_is_given_back(Channel::Quic).await;
}
