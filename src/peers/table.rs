//! The peers that weigh most, in bounded memory.
//!
//! The Space-Saving algorithm: a newcomer to a full table takes the place of the lightest entry,
//! and its weight as the error of its own, since nobody knows any more whether the newcomer had
//! been there before. So whoever weighs more than the whole divided by the capacity is in the
//! table, whatever the others do.

use std::{
    collections::{BTreeSet, HashMap},
    ops::AddAssign,
};

use libp2p::PeerId;

/// What a peer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes that it sent through circuits.
    pub sent: u64,
    /// Bytes that it was sent through circuits.
    pub received: u64,
    /// Circuits that were opened, from it or to it.
    pub circuits: u64,
    /// Reservations that it was granted, renewals included.
    pub reservations: u64,
    /// Requests of its that were denied.
    pub denials: u64,
}

impl Figures {
    /// Both directions together.
    pub fn bytes(&self) -> u64 {
        self.sent.saturating_add(self.received)
    }

    /// A request weighs no more than a byte: to push out who moved data, strangers have to ask
    /// more often, one way or another, than the capacity times the bytes.
    fn weight(&self) -> u64 {
        let requests = [self.circuits, self.reservations, self.denials];
        requests.into_iter().fold(self.bytes(), u64::saturating_add)
    }
}

impl AddAssign for Figures {
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

/// What is known of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What it did since it was entered: never more than is true.
    pub figures: Figures,
    /// What it did before and is forgotten, all figures together: at most this.
    pub error: u64,
}

impl Entry {
    fn weight(&self) -> u64 {
        self.figures.weight().saturating_add(self.error)
    }
}

/// The heaviest peers.
#[derive(Debug)]
pub(super) struct Table {
    capacity: usize,
    entries: HashMap<PeerId, Entry>,
    /// From the lightest to the heaviest.
    order: BTreeSet<(u64, PeerId)>,
}

impl Table {
    /// An empty one, of at most `capacity` entries and at least one.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            entries: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// `peer` did this as well.
    pub(super) fn add(&mut self, peer: PeerId, figures: Figures) {
        let mut entry = match self.entries.get(&peer) {
            Some(entry) => {
                self.order.remove(&(entry.weight(), peer));
                *entry
            }
            None => Entry {
                figures: Figures::default(),
                error: self.make_room(),
            },
        };
        entry.figures += figures;
        self.order.insert((entry.weight(), peer));
        self.entries.insert(peer, entry);
    }

    /// Takes the lightest entry out of a full table, and gives its weight.
    fn make_room(&mut self) -> u64 {
        if self.entries.len() < self.capacity {
            return 0;
        }
        self.order.pop_first().map_or(0, |(weight, peer)| {
            self.entries.remove(&peer);
            weight
        })
    }

    /// What is in it now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let is_full = self.entries.len() >= self.capacity;
        let least = self.order.first().filter(|_| is_full);
        Snapshot {
            entries: self.entries.iter().map(|(p, e)| (*p, *e)).collect(),
            missing: least.map_or(0, |(weight, _)| *weight),
        }
    }
}

/// What a table held.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) entries: Vec<(PeerId, Entry)>,
    /// Whoever is not in it did at most this, all figures together.
    pub(super) missing: u64,
}

/// What all these know of each peer, and what a peer that is in none of them did at most.
pub(super) fn merged<'a>(
    snapshots: impl Iterator<Item = &'a Snapshot> + Clone,
) -> (HashMap<PeerId, Entry>, u64) {
    let missing = |sum: u64, snapshot: &Snapshot| sum.saturating_add(snapshot.missing);
    let missing = snapshots.clone().fold(0, missing);
    let mut peers: HashMap<PeerId, Entry> = HashMap::new();
    for snapshot in snapshots {
        for (peer, entry) in &snapshot.entries {
            let sum = peers.entry(*peer).or_insert(Entry {
                figures: Figures::default(),
                error: missing,
            });
            sum.figures += entry.figures;
            sum.error = (sum.error - snapshot.missing.min(sum.error)).saturating_add(entry.error);
        }
    }
    (peers, missing)
}
