//! Random load: ordinary clients connect, reserve, exchange bytes with one another, and leave.

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

/// What each client does before it leaves.
const ACTIONS: usize = 3;
/// How long a client does nothing between its actions, at most.
const PAUSE: Duration = Duration::from_secs(1);
/// Clients do not wait longer than this for their bytes: the other side may have left.
const EXCHANGE: Duration = Duration::from_secs(2);

/// Peers that hold a reservation, as far as the clients know.
pub type Directory = Arc<Mutex<Vec<PeerId>>>;

/// What clients achieved.
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

/// A new client that has asked for its reservation.
pub async fn arrive(
    security: Security,
    address: &Multiaddr,
    directory: &Directory,
    tally: &mut Tally,
) -> Client {
    let mut client = Client::new(security).await;
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

/// Exchanges at most `most` bytes with each of several other clients, and leaves.
pub async fn act_and_leave(
    mut client: Client,
    most: usize,
    rng: &mut StdRng,
    address: &Multiaddr,
    directory: &Directory,
    tally: &mut Tally,
) {
    let me = client.peer_id;
    for _ in 0..ACTIONS {
        // Others come through this client meanwhile.
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
