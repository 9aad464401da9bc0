//! The most active peers, in bounded memory.
//!
//! This is the Space-Saving algorithm (Metwally, Agrawal, El Abbadi 2005). A peer that is added to
//! a full table replaces the entry of the lowest weight, and takes over its weight as its error,
//! because the peer may have been in the table before. Every peer whose weight exceeds the total
//! weight divided by the capacity is therefore in the table.

use std::{
    collections::{BTreeSet, HashMap},
    ops::AddAssign,
};

use libp2p::PeerId;

/// Counters of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Bytes that the peer sent through circuits.
    pub sent: u64,
    /// Bytes that the peer received through circuits.
    pub received: u64,
    /// Circuits opened by the peer or to it.
    pub circuits: u64,
    /// Reservations granted to the peer, renewals included.
    pub reservations: u64,
    /// Denied requests of the peer.
    pub denials: u64,
}

impl PeerCounters {
    /// Bytes of both directions.
    pub fn bytes(&self) -> u64 {
        self.sent.saturating_add(self.received)
    }

    /// A request weighs as much as one byte: to evict a peer that moved data, other peers have to
    /// send more requests in total than the capacity times its bytes.
    fn weight(&self) -> u64 {
        let requests = [self.circuits, self.reservations, self.denials];
        requests.into_iter().fold(self.bytes(), u64::saturating_add)
    }
}

impl AddAssign for PeerCounters {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.sent, other.sent),
            (&mut self.received, other.received),
            (&mut self.circuits, other.circuits),
            (&mut self.reservations, other.reservations),
            (&mut self.denials, other.denials),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Estimated counters of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Counts since the peer was added to the table; a lower bound.
    pub counters: PeerCounters,
    /// Upper bound of the weight that the peer had before and that was dropped, over all counters.
    pub error: u64,
}

impl Estimate {
    fn weight(&self) -> u64 {
        self.counters.weight().saturating_add(self.error)
    }
}

/// A Space-Saving table.
#[derive(Debug)]
pub(super) struct SpaceSaving {
    capacity: usize,
    entries: HashMap<PeerId, Estimate>,
    /// Entries by weight, lowest first.
    order: BTreeSet<(u64, PeerId)>,
}

impl SpaceSaving {
    /// Creates an empty table of at most `capacity` entries, at least one.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            entries: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Adds to the counters of `peer`.
    pub(super) fn add(&mut self, peer: PeerId, counters: PeerCounters) {
        let mut entry = match self.entries.get(&peer) {
            Some(entry) => {
                self.order.remove(&(entry.weight(), peer));
                *entry
            }
            None => Estimate {
                counters: PeerCounters::default(),
                error: self.make_room(),
            },
        };
        entry.counters += counters;
        self.order.insert((entry.weight(), peer));
        self.entries.insert(peer, entry);
    }

    /// Evicts the entry of the lowest weight if the table is full, and returns its weight.
    fn make_room(&mut self) -> u64 {
        if self.entries.len() < self.capacity {
            return 0;
        }
        self.order.pop_first().map_or(0, |(weight, peer)| {
            self.entries.remove(&peer);
            weight
        })
    }

    /// Copies the current entries.
    pub(super) fn snapshot(&self) -> Snapshot {
        let is_full = self.entries.len() >= self.capacity;
        let least = self.order.first().filter(|_| is_full);
        Snapshot {
            entries: self.entries.iter().map(|(p, e)| (*p, *e)).collect(),
            missing: least.map_or(0, |(weight, _)| *weight),
        }
    }
}

/// Entries of a table at one time.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) entries: Vec<(PeerId, Estimate)>,
    /// Upper bound of the weight of a peer that is not in the table.
    pub(super) missing: u64,
}

/// Sums the entries of each peer over all snapshots. The second value is the upper bound of the
/// weight of a peer that is in none of them.
pub(super) fn merge<'a>(
    snapshots: impl Iterator<Item = &'a Snapshot> + Clone,
) -> (HashMap<PeerId, Estimate>, u64) {
    let missing = |sum: u64, snapshot: &Snapshot| sum.saturating_add(snapshot.missing);
    let missing = snapshots.clone().fold(0, missing);
    let mut peers: HashMap<PeerId, Estimate> = HashMap::new();
    for snapshot in snapshots {
        for (peer, entry) in &snapshot.entries {
            let sum = peers.entry(*peer).or_insert(Estimate {
                counters: PeerCounters::default(),
                error: missing,
            });
            sum.counters += entry.counters;
            sum.error = (sum.error - snapshot.missing.min(sum.error)).saturating_add(entry.error);
        }
    }
    (peers, missing)
}
