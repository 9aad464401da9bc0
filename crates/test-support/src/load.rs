//! Random load: ordinary clients connect, reserve, exchange data and disconnect.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId};
use libp2p_stream::Control;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use tokio::time::{sleep, timeout};

use crate::{
    client::{Client, Security, TEST_PROTOCOL},
    raw::pattern,
};

/// Number of exchanges of each client.
const ACTIONS: usize = 3;
/// Maximum pause of a client between two exchanges.
const PAUSE: Duration = Duration::from_secs(1);
/// Timeout of an exchange, because the other client may have disconnected.
const EXCHANGE: Duration = Duration::from_secs(2);

/// Peers with a reservation, to the knowledge of the clients.
pub type Directory = Arc<Mutex<Vec<PeerId>>>;

/// Totals of the clients' successful operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub reserved: u64,
    pub refused: u64,
    pub connected: u64,
    pub failed: u64,
    pub exchanged: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.reserved += other.reserved;
        self.refused += other.refused;
        self.connected += other.connected;
        self.failed += other.failed;
        self.exchanged += other.exchanged;
    }
}

/// A new client that has requested a reservation.
pub async fn connect_and_reserve(
    security: Security,
    address: &Multiaddr,
    directory: &Directory,
    tally: &mut Tally,
) -> Client {
    let mut client = Client::new(security).await;
    client.spawn_echo();
    match client.reserve(address).await {
        Ok(()) => {
            tally.reserved += 1;
            directory.lock().unwrap().push(client.peer_id);
        }
        Err(_) => tally.refused += 1,
    }
    client
}

/// Exchanges at most `most` bytes with each of several other clients, then disconnects.
pub async fn exchange_and_disconnect(
    mut client: Client,
    most: usize,
    rng: &mut StdRng,
    address: &Multiaddr,
    directory: &Directory,
    tally: &mut Tally,
) {
    let me = client.peer_id;
    for _ in 0..ACTIONS {
        // The client accepts circuits during the pause.
        let pause = rng.random_range(Duration::ZERO..PAUSE);
        client.run_until(sleep(pause)).await;
        let others = directory.lock().unwrap().clone();
        let target = others.choose(rng).copied().filter(|other| *other != me);
        let Some(target) = target else { continue };
        let Ok(circuit) = client.connect(address, target).await else {
            tally.failed += 1;
            continue;
        };
        tally.connected += 1;
        let length = rng.random_range(1..most);
        let streams = client.streams.clone();
        let exchanged = client.run_until(exchange(streams, target, length));
        if matches!(timeout(EXCHANGE, exchanged).await, Ok(Some(()))) {
            tally.exchanged += 1;
        }
        if rng.random_bool(0.5) {
            client.swarm.close_connection(circuit);
        }
    }
    directory.lock().unwrap().retain(|peer| *peer != me);
    // Half of the clients disconnect gracefully, the others abruptly.
    if rng.random_bool(0.5) {
        client.disconnect().await;
    }
}

/// Sends data to `target` and verifies the echo; `None` if one of the two disconnected meanwhile.
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
    // The stock yamux client cannot distinguish a reset stream from a closed one.
    assert!(
        sent.starts_with(&received),
        "the echo differs from the sent data"
    );
    (received.len() == sent.len()).then_some(())
}
