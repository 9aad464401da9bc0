//! Who moves how much through the relay: the peers that count most, since the start and during the
//! last while.
//!
//! Memory is bounded whatever peers do. A table holds at most as many peers as the operator says;
//! see [`table`](self) for what is forgotten then, and how the answers tell. One entry takes some
//! 300 bytes in each of the two tables that are written to (the total, and the current step of the
//! window) and some 150 in each of the nine steps before it: 2 KiB in all, so 2 MiB for the default
//! of 1024 peers.
//!
//! A circuit pays two additions for what it carries; [`Peers::sweep`] puts that into the tables
//! every few seconds, and again whoever asks.

mod table;
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

pub use self::table::{Entry, Figures};
use self::{
    table::{Table, merged},
    window::Window,
};
use crate::relay::now;

/// The most peers of which figures may be kept: 32 MiB then.
pub const MAX_CAPACITY: usize = 16 * 1024;

/// The longest time until a table has what a circuit carried.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How many circuits a sweep looks at before other tasks get their turn.
const CIRCUITS_PER_TURN: usize = 64;

/// Why there is no answer: a fault of the relay.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The figures of the peers that count most.
#[derive(Debug)]
pub struct Peers {
    capacity: usize,
    window: Duration,
    tables: Mutex<Tables>,
    /// The circuits that are open, each under a number of its own.
    circuits: Mutex<HashMap<u64, Arc<Flow>>>,
    next_circuit: AtomicU64,
    /// One answer at a time: whoever asks in a loop only waits for themselves.
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Tables {
    total: Table,
    window: Window,
}

/// Which of a peer's figures count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// The last while.
    #[default]
    Window,
    /// Since the relay was started.
    Total,
}

/// The figures of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who it is.
    pub peer: PeerId,
    /// The last while.
    pub window: Entry,
    /// Since the relay was started.
    pub total: Entry,
}

/// The peers that moved most.
#[derive(Debug)]
pub struct Top {
    /// From whoever moved most.
    pub lines: Vec<Line>,
    /// Of how many peers there are figures since the start; at most the capacity.
    pub tracked: usize,
}

impl Peers {
    /// Keeps the figures of at most `capacity` peers, and of the last while as long as `window`.
    pub fn new(capacity: usize, window: Duration) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            window,
            tables: Mutex::new(Tables {
                total: Table::new(capacity),
                window: Window::new(capacity, window, now()),
            }),
            circuits: Mutex::default(),
            next_circuit: AtomicU64::new(0),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Of how many peers figures are kept at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How long the last while is.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// `peer` was granted a reservation, or a renewal.
    pub fn reserved(&self, peer: PeerId) {
        let figures = Figures {
            reservations: 1,
            ..Figures::default()
        };
        self.add(now(), [(peer, figures)]);
    }

    /// A request of `peer` was denied.
    pub fn denied(&self, peer: PeerId) {
        let figures = Figures {
            denials: 1,
            ..Figures::default()
        };
        self.add(now(), [(peer, figures)]);
    }

    /// A circuit is open from `source` to `target`; what it carries counts for both.
    pub fn circuit(self: &Arc<Self>, source: PeerId, target: PeerId) -> Circuit {
        let figures = Figures {
            circuits: 1,
            ..Figures::default()
        };
        self.add(now(), [(source, figures), (target, figures)]);
        let flow = Arc::new(Flow {
            source,
            target,
            to_target: AtomicU64::new(0),
            to_source: AtomicU64::new(0),
        });
        let id = self.next_circuit.fetch_add(1, Ordering::Relaxed);
        self.circuits().insert(id, Arc::clone(&flow));
        let peers = Arc::clone(self);
        Circuit { peers, id, flow }
    }

    /// The peers that moved most bytes during `period`, at most `limit` of them, with what open
    /// circuits have carried until now.
    ///
    /// # Errors
    /// When the relay is at fault.
    pub async fn top(self: &Arc<Self>, period: Period, limit: usize) -> Result<Top, Error> {
        let turn = Arc::clone(&self.turn).acquire_owned().await?;
        let peers = Arc::clone(self);
        // Thousands of entries are merged and sorted: nothing for a thread that relays.
        let top = spawn_blocking(move || {
            for flow in peers.flows() {
                peers.settle(&flow);
            }
            let top = peers.rank(now(), period, limit);
            drop(turn);
            top
        });
        Ok(top.await?)
    }

    /// Puts what circuits carry into the tables, now and then, for ever.
    pub async fn sweep(self: Arc<Self>) {
        let interval = window::slot(self.window).min(SWEEP_INTERVAL);
        loop {
            sleep(interval).await;
            for flows in self.flows().chunks(CIRCUITS_PER_TURN) {
                for flow in flows {
                    self.settle(flow);
                }
                yield_now().await;
            }
        }
    }

    fn rank(&self, now: Instant, period: Period, limit: usize) -> Top {
        let (total, window) = {
            let mut tables = self.tables();
            (tables.total.snapshot(), tables.window.snapshots(now))
        };
        let tracked = total.entries.len();
        let (totals, elsewhere) = merged([&total].into_iter());
        let (windows, before) = merged(window.iter().map(AsRef::as_ref));
        let forgotten = |error| Entry {
            error,
            ..Entry::default()
        };
        let line = |peer: &PeerId| Line {
            peer: *peer,
            window: *windows.get(peer).unwrap_or(&forgotten(before)),
            total: *totals.get(peer).unwrap_or(&forgotten(elsewhere)),
        };
        let only_lately = windows.keys().filter(|peer| !totals.contains_key(peer));
        let mut lines: Vec<_> = totals.keys().chain(only_lately).map(line).collect();
        lines.sort_unstable_by_key(|line| {
            let (window, total) = (line.window.figures.bytes(), line.total.figures.bytes());
            let bytes = match period {
                Period::Window => (window, total),
                Period::Total => (total, window),
            };
            (std::cmp::Reverse(bytes), line.peer)
        });
        lines.truncate(limit);
        Top { lines, tracked }
    }

    /// Puts what a circuit has carried since the last time into the tables.
    fn settle(&self, flow: &Flow) {
        let to_target = flow.to_target.swap(0, Ordering::Relaxed);
        let to_source = flow.to_source.swap(0, Ordering::Relaxed);
        if to_target == 0 && to_source == 0 {
            return;
        }
        let figures = |sent, received| Figures {
            sent,
            received,
            ..Figures::default()
        };
        self.add(
            now(),
            [
                (flow.source, figures(to_target, to_source)),
                (flow.target, figures(to_source, to_target)),
            ],
        );
    }

    fn add<const N: usize>(&self, now: Instant, all: [(PeerId, Figures); N]) {
        let mut tables = self.tables();
        for (peer, figures) in all {
            tables.total.add(peer, figures);
            tables.window.add(now, peer, figures);
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn circuits(&self) -> MutexGuard<'_, HashMap<u64, Arc<Flow>>> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flows(&self) -> Vec<Arc<Flow>> {
        self.circuits().values().cloned().collect()
    }
}

/// What a circuit has carried and no table has yet.
#[derive(Debug)]
struct Flow {
    source: PeerId,
    target: PeerId,
    to_target: AtomicU64,
    to_source: AtomicU64,
}

/// An open circuit. What it carries is in the tables at the latest when this is dropped.
#[derive(Debug)]
pub struct Circuit {
    peers: Arc<Peers>,
    id: u64,
    flow: Arc<Flow>,
}

impl Circuit {
    /// The circuit has carried so many bytes more.
    pub fn carried(&self, to_target: u64, to_source: u64) {
        for (waiting, bytes) in [
            (&self.flow.to_target, to_target),
            (&self.flow.to_source, to_source),
        ] {
            if bytes > 0 {
                waiting.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        self.peers.circuits().remove(&self.id);
        self.peers.settle(&self.flow);
    }
}

#[cfg(test)]
mod tests;
