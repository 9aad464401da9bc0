//! Two hundred clients at once that reserve, connect to one another, talk, and leave at random.
//! Afterwards the relay's books are at zero and nothing has leaked.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId};
use libp2p_stream::Control;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use support::{
    client::{Client, Security, TEST_PROTOCOL},
    process::{Relay, is},
    raw::{Raw, pattern, reserve},
};
use tokio::{sync::Barrier, task::JoinSet};

const CLIENTS: u64 = 200;
/// What each client does before it leaves.
const ACTIONS: usize = 3;
/// How long a client does nothing between its actions, at most.
const PAUSE: Duration = Duration::from_secs(1);
/// Clients do not wait longer than this for their bytes: the other side may have left.
const EXCHANGE: Duration = Duration::from_secs(2);

/// Peers that hold a reservation, as far as the clients know.
type Directory = Arc<Mutex<Vec<PeerId>>>;

/// What the clients achieved.
#[derive(Debug, Default)]
struct Tally {
    reserved: usize,
    refused: usize,
    connected: usize,
    failed: usize,
    exchanged: usize,
}

/// A client that comes, leaves, and comes back as somebody else.
async fn live(seed: u64, address: Multiaddr, directory: Directory, all: Arc<Barrier>) -> Tally {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    let client = arrive(&address, &directory, &mut tally).await;
    // Everybody is there before anybody goes on.
    all.wait().await;
    act_and_leave(client, &mut rng, &address, &directory, &mut tally).await;
    let client = arrive(&address, &directory, &mut tally).await;
    act_and_leave(client, &mut rng, &address, &directory, &mut tally).await;
    tally
}

async fn arrive(address: &Multiaddr, directory: &Directory, tally: &mut Tally) -> Client {
    let mut client = Client::new(Security::Noise).await;
    client.answer();
    match client.reserve(address).await {
        Ok(()) => {
            tally.reserved += 1;
            directory.lock().unwrap().push(client.peer_id);
        }
        Err(_) => tally.refused += 1,
    }
    client
}

async fn act_and_leave(
    mut client: Client,
    rng: &mut StdRng,
    address: &Multiaddr,
    directory: &Directory,
    tally: &mut Tally,
) {
    let me = client.peer_id;
    for _ in 0..ACTIONS {
        // Others come through this client meanwhile.
        let pause = rng.random_range(Duration::ZERO..PAUSE);
        client.run_until(tokio::time::sleep(pause)).await;
        let me = client.peer_id;
        let others = directory.lock().unwrap().clone();
        let target = others.choose(rng).copied().filter(|other| *other != me);
        let Some(target) = target else { continue };
        let Ok(circuit) = client.connect(address, target).await else {
            tally.failed += 1;
            continue;
        };
        tally.connected += 1;
        let length = rng.random_range(1..50_000);
        let streams = client.streams.clone();
        let exchanged = client.run_until(exchange(streams, target, length));
        if matches!(
            tokio::time::timeout(EXCHANGE, exchanged).await,
            Ok(Some(()))
        ) {
            tally.exchanged += 1;
        }
        if rng.random_bool(0.5) {
            client.swarm.close_connection(circuit);
        }
    }
    directory.lock().unwrap().retain(|peer| *peer != me);
    // Some say good-bye, the others are just gone.
    if rng.random_bool(0.5) {
        client.leave().await;
    }
}

/// Sends bytes to `target` and takes them back; nothing when one of the two went meanwhile.
async fn exchange(mut streams: Control, target: PeerId, length: usize) -> Option<()> {
    let sent = pattern(length);
    let stream = streams.open_stream(target, TEST_PROTOCOL).await.ok()?;
    let (mut reader, mut writer) = stream.split();
    let write = async {
        writer.write_all(&sent).await.ok()?;
        writer.close().await.ok()
    };
    let mut received = Vec::new();
    let (written, read) = tokio::join!(write, reader.read_to_end(&mut received));
    written?;
    read.ok()?;
    // The stock yamux client cannot tell a stream that was cut from one that ended.
    assert!(sent.starts_with(&received), "the bytes are not those sent");
    (received.len() == sent.len()).then_some(())
}

/// Runs the crowd against a relay with these limits and gives what it achieved. What the relay
/// logged adds up, and it is at the end as it was at the start.
async fn crowd(limits: &[(&str, &str)]) -> (Tally, Vec<Value>) {
    let mut variables = vec![("RELAY_STATS_INTERVAL", "1s")];
    variables.extend(limits);
    let mut relay = Relay::start(&variables).await;
    let files = relay.open_files();
    let addresses = [relay.tcp(), relay.quic(), relay.websocket()];
    let directory = Directory::default();
    let all = Arc::new(Barrier::new(usize::try_from(CLIENTS).unwrap()));

    let mut clients = JoinSet::new();
    for (seed, address) in (0..CLIENTS).zip(addresses.iter().cycle()) {
        let (directory, all) = (Arc::clone(&directory), Arc::clone(&all));
        clients.spawn(live(seed, address.clone(), directory, all));
    }
    let mut total = Tally::default();
    while let Some(tally) = clients.join_next().await {
        let tally = tally.unwrap();
        total.reserved += tally.reserved;
        total.refused += tally.refused;
        total.connected += tally.connected;
        total.failed += tally.failed;
        total.exchanged += tally.exchanged;
    }

    relay.is_idle().await;
    while relay.open_files() > files {
        relay.event("statistics").await;
    }
    let events = relay.stop().await;
    assert_balanced(&events);
    (total, events)
}

/// Every reservation and every circuit that began has ended, once.
fn assert_balanced(events: &[Value]) {
    let mut open: HashMap<String, i64> = HashMap::new();
    for event in events {
        let circuit = || format!("circuit {} {}", event["source_peer"], event["target_peer"]);
        let reservation = || format!("reservation {}", event["peer"]);
        let (what, change) = match event["message"].as_str().unwrap() {
            "circuit accepted" => (circuit(), 1),
            "circuit closed" => (circuit(), -1),
            "reservation accepted" => (reservation(), 1),
            "reservation expired" | "reservation closed" => (reservation(), -1),
            _ => continue,
        };
        *open.entry(what).or_default() += change;
    }
    let odd: Vec<_> = open.iter().filter(|(_, balance)| **balance != 0).collect();
    assert!(odd.is_empty(), "{odd:#?}");
}

fn count(events: &[Value], message: &str) -> usize {
    events.iter().filter(|e| is(e, message)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_room_for_all() {
    let (tally, events) = crowd(&[
        ("RELAY_MAX_RESERVATIONS", "0"),
        ("RELAY_MAX_CIRCUITS", "0"),
        ("RELAY_MAX_CIRCUITS_PER_PEER", "0"),
    ])
    .await;
    assert_eq!((tally.reserved, tally.refused), (400, 0));
    assert_eq!(count(&events, "reservation accepted"), 400);
    assert!(tally.exchanged > 100, "{tally:?}");
    assert!(count(&events, "circuit accepted") >= tally.connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_room_for_few() {
    let (tally, events) = crowd(&[
        ("RELAY_MAX_RESERVATIONS", "40"),
        ("RELAY_MAX_CIRCUITS", "20"),
        ("RELAY_MAX_CIRCUITS_PER_PEER", "2"),
    ])
    .await;
    assert!(tally.reserved >= 40 && tally.refused > 0, "{tally:?}");
    assert!(tally.exchanged > 10 && tally.failed > 0, "{tally:?}");
    let reason = |wanted: &str| events.iter().any(|e| e["reason"] == wanted);
    assert!(reason("max_reservations"));
    assert!(reason("max_circuits") || reason("max_circuits_target"));
}

/// Clients that ask for a reservation and are gone before, while, or after it is granted.
#[tokio::test(flavor = "multi_thread")]
async fn gone_before_the_answer() {
    let mut relay = Relay::start(&[("RELAY_STATS_INTERVAL", "1s")]).await;
    let mut rng = StdRng::seed_from_u64(1);
    for address in [relay.tcp(), relay.quic()].iter().cycle().take(200) {
        let mut client = Raw::new(address).await;
        let mut stream = client.hop().await;
        stream.write_all(&reserve()).await.unwrap();
        stream.flush().await.unwrap();
        let wait = Duration::from_micros(rng.random_range(0..2000));
        tokio::time::sleep(wait).await;
    }
    relay.is_idle().await;
    let events = relay.stop().await;
    let granted = count(&events, "reservation accepted");
    assert!(granted > 0);
    assert_balanced(&events);
}
