//! Counters of the recent time: a ring of slots, each with its own table.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::PeerId;

use super::space_saving::{PeerCounters, Snapshot, SpaceSaving};

/// Slots of the window. The window advances by one slot at a time.
pub(super) const SLOTS: u32 = 10;

/// Counters of the recent time, accurate to one slot.
#[derive(Debug)]
pub(super) struct Window {
    capacity: usize,
    slot: Duration,
    /// Start of the current slot.
    since: Instant,
    current: SpaceSaving,
    /// Finished slots, from the oldest to the newest.
    past: VecDeque<Arc<Snapshot>>,
}

impl Window {
    /// Creates an empty window of this length that ends now.
    pub(super) fn new(capacity: usize, length: Duration, now: Instant) -> Self {
        Self {
            capacity,
            slot: slot_length(length),
            since: now,
            current: SpaceSaving::new(capacity),
            past: VecDeque::new(),
        }
    }

    /// Adds to the counters of `peer`.
    pub(super) fn add(&mut self, now: Instant, peer: PeerId, counters: PeerCounters) {
        self.advance(now);
        self.current.add(peer, counters);
    }

    /// Snapshots of all slots of the window. Those of finished slots are shared, not copied.
    pub(super) fn snapshots(&mut self, now: Instant) -> Vec<Arc<Snapshot>> {
        self.advance(now);
        let current = Arc::new(self.current.snapshot());
        self.past.iter().cloned().chain([current]).collect()
    }

    /// Drops slots older than the window.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= self.slot * SLOTS {
            // The whole window has passed; there is no need to advance slot by slot.
            self.past.clear();
            self.current = SpaceSaving::new(self.capacity);
            self.since = now;
            return;
        }
        while now.saturating_duration_since(self.since) >= self.slot {
            self.past.push_back(Arc::new(self.current.snapshot()));
            self.current = SpaceSaving::new(self.capacity);
            self.since += self.slot;
            if self.past.len() >= SLOTS as usize {
                self.past.pop_front();
            }
        }
    }
}

/// Length of one slot of a window of this length.
pub(super) fn slot_length(length: Duration) -> Duration {
    (length / SLOTS).max(Duration::from_millis(1))
}
