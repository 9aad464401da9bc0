//! Traffic counters of the most active peers: since the start, and over a recent window.
//!
//! Memory is bounded: there is one table for the total and one for each of the ten slots of the
//! window, and each holds at most the configured number of peers (Space-Saving). A
//! peer takes up to 3 KiB (measured), so the default of 1024 peers takes 3 MiB; a query takes the
//! same amount again while it runs. A peer that was evicted from a full table and is added again
//! has an error: an upper bound of its earlier counts. Counters may under-report but never
//! over-report.
//!
//! A circuit adds to two atomic counters when it moves bytes. [`PeerStats::sweep`] moves these into
//! the tables every few seconds, and so does every query.

mod space_saving;
mod window;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p::PeerId;
use tokio::{
    sync::Semaphore,
    task::{spawn_blocking, yield_now},
    time::sleep,
};

pub use self::space_saving::{Estimate, PeerCounters};
use self::{
    space_saving::{SpaceSaving, merge},
    window::Window,
};

/// Largest capacity, in peers. It takes 48 MiB.
pub const MAX_CAPACITY: usize = 16 * 1024;

/// Longest time until the bytes of a circuit are in the tables.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Circuits that a sweep processes before it yields to other tasks.
const CIRCUITS_PER_YIELD: usize = 64;

/// Why a query failed: an internal error.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Counters of the most active peers.
#[derive(Debug)]
pub struct PeerStats {
    capacity: usize,
    window: Duration,
    tables: Mutex<Tables>,
    /// Open circuits by id.
    circuits: Mutex<HashMap<u64, Arc<CircuitCounters>>>,
    next_circuit: AtomicU64,
    /// One query at a time, so that repeated queries do not multiply the memory that they take.
    query_permit: Arc<Semaphore>,
}

#[derive(Debug)]
struct Tables {
    total: SpaceSaving,
    window: Window,
}

/// Period by which peers are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// The recent window.
    #[default]
    Window,
    /// Since the start of the relay.
    Total,
}

/// Counters of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// The peer.
    pub peer: PeerId,
    /// Over the recent window.
    pub window: Estimate,
    /// Since the start of the relay.
    pub total: Estimate,
}

/// Result of a query.
#[derive(Debug)]
pub struct TopPeers {
    /// Peers by bytes, most first.
    pub rows: Vec<PeerRow>,
    /// Peers with counters since the start; at most the capacity.
    pub tracked: usize,
}

impl PeerStats {
    /// Tracks at most `capacity` peers, with a recent window of length `window`.
    pub fn new(capacity: usize, window: Duration) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            window,
            tables: Mutex::new(Tables {
                total: SpaceSaving::new(capacity),
                window: Window::new(capacity, window, now()),
            }),
            circuits: Mutex::default(),
            next_circuit: AtomicU64::new(0),
            query_permit: Arc::new(Semaphore::new(1)),
        })
    }

    /// Largest number of peers that are tracked.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Length of the recent window.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Counts a reservation or a renewal granted to `peer`.
    pub fn reserved(&self, peer: PeerId) {
        let counters = PeerCounters {
            reservations: 1,
            ..PeerCounters::default()
        };
        self.add(now(), [(peer, counters)]);
    }

    /// Counts a denied request of `peer`.
    pub fn denied(&self, peer: PeerId) {
        let counters = PeerCounters {
            denials: 1,
            ..PeerCounters::default()
        };
        self.add(now(), [(peer, counters)]);
    }

    /// Counts a circuit from `source` to `target`. Its bytes count for both peers.
    pub fn circuit(self: &Arc<Self>, source: PeerId, target: PeerId) -> CircuitGuard {
        let counters = PeerCounters {
            circuits: 1,
            ..PeerCounters::default()
        };
        self.add(now(), [(source, counters), (target, counters)]);
        let counters = Arc::new(CircuitCounters {
            source,
            target,
            to_target: AtomicU64::new(0),
            to_source: AtomicU64::new(0),
        });
        let id = self.next_circuit.fetch_add(1, Ordering::Relaxed);
        self.circuits().insert(id, Arc::clone(&counters));
        let peers = Arc::clone(self);
        CircuitGuard {
            peers,
            id,
            counters,
        }
    }

    /// The peers that moved most bytes during `period`, at most `limit` of them. Bytes of open
    /// circuits are included.
    ///
    /// # Errors
    /// If the ranking task panicked.
    pub async fn top(self: &Arc<Self>, period: Period, limit: usize) -> Result<TopPeers, Error> {
        let permit = Arc::clone(&self.query_permit).acquire_owned().await?;
        let peers = Arc::clone(self);
        // Merging and sorting thousands of entries must not block a worker thread of the runtime.
        let top = spawn_blocking(move || {
            for counters in peers.circuit_counters() {
                peers.flush(&counters);
            }
            let top = peers.rank(now(), period, limit);
            drop(permit);
            top
        });
        Ok(top.await?)
    }

    /// Moves the bytes of open circuits into the tables at intervals. Never returns.
    pub async fn sweep(self: Arc<Self>) {
        let interval = window::slot_length(self.window).min(SWEEP_INTERVAL);
        loop {
            sleep(interval).await;
            for circuit_counters in self.circuit_counters().chunks(CIRCUITS_PER_YIELD) {
                for counters in circuit_counters {
                    self.flush(counters);
                }
                yield_now().await;
            }
        }
    }

    fn rank(&self, now: Instant, period: Period, limit: usize) -> TopPeers {
        let (total, window) = {
            let mut tables = self.tables();
            (tables.total.snapshot(), tables.window.snapshots(now))
        };
        let tracked = total.entries.len();
        let (totals, elsewhere) = merge([&total].into_iter());
        let (windows, before) = merge(window.iter().map(AsRef::as_ref));
        let forgotten = |error| Estimate {
            error,
            ..Estimate::default()
        };
        let row = |peer: &PeerId| PeerRow {
            peer: *peer,
            window: *windows.get(peer).unwrap_or(&forgotten(before)),
            total: *totals.get(peer).unwrap_or(&forgotten(elsewhere)),
        };
        let only_lately = windows.keys().filter(|peer| !totals.contains_key(peer));
        let mut rows: Vec<_> = totals.keys().chain(only_lately).map(row).collect();
        rows.sort_unstable_by_key(|row| {
            let (window, total) = (row.window.counters.bytes(), row.total.counters.bytes());
            let bytes = match period {
                Period::Window => (window, total),
                Period::Total => (total, window),
            };
            (std::cmp::Reverse(bytes), row.peer)
        });
        rows.truncate(limit);
        TopPeers { rows, tracked }
    }

    /// Moves the bytes of a circuit into the tables.
    fn flush(&self, circuit: &CircuitCounters) {
        let to_target = circuit.to_target.swap(0, Ordering::Relaxed);
        let to_source = circuit.to_source.swap(0, Ordering::Relaxed);
        if to_target == 0 && to_source == 0 {
            return;
        }
        let counters = |sent, received| PeerCounters {
            sent,
            received,
            ..PeerCounters::default()
        };
        self.add(
            now(),
            [
                (circuit.source, counters(to_target, to_source)),
                (circuit.target, counters(to_source, to_target)),
            ],
        );
    }

    fn add<const N: usize>(&self, now: Instant, all: [(PeerId, PeerCounters); N]) {
        let mut tables = self.tables();
        for (peer, counters) in all {
            tables.total.add(peer, counters);
            tables.window.add(now, peer, counters);
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn circuits(&self) -> MutexGuard<'_, HashMap<u64, Arc<CircuitCounters>>> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn circuit_counters(&self) -> Vec<Arc<CircuitCounters>> {
        self.circuits().values().cloned().collect()
    }
}

/// Bytes of a circuit that are not in the tables yet.
#[derive(Debug)]
struct CircuitCounters {
    source: PeerId,
    target: PeerId,
    to_target: AtomicU64,
    to_source: AtomicU64,
}

/// An open circuit. Dropping it moves its remaining bytes into the tables.
#[derive(Debug)]
pub struct CircuitGuard {
    peers: Arc<PeerStats>,
    id: u64,
    counters: Arc<CircuitCounters>,
}

impl CircuitGuard {
    /// Adds bytes that the circuit moved.
    pub fn add(&self, to_target: u64, to_source: u64) {
        for (waiting, bytes) in [
            (&self.counters.to_target, to_target),
            (&self.counters.to_source, to_source),
        ] {
            if bytes > 0 {
                waiting.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for CircuitGuard {
    fn drop(&mut self) {
        self.peers.circuits().remove(&self.id);
        self.peers.flush(&self.counters);
    }
}

/// Clock of the tables. Tests with paused time control it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
