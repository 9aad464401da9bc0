//! The last while: a ring of short times, each with a table of its own.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::PeerId;

use super::table::{Figures, Snapshot, Table};

/// In how many steps the window moves on.
pub(super) const SLOTS: u32 = 10;

/// What peers did during the last while, give or take a step.
#[derive(Debug)]
pub(super) struct Window {
    capacity: usize,
    slot: Duration,
    /// Since when what happens goes into `current`.
    since: Instant,
    current: Table,
    /// Those before it, from the oldest to the newest.
    past: VecDeque<Arc<Snapshot>>,
}

impl Window {
    /// The window of this length that ends now, with nothing in it.
    pub(super) fn new(capacity: usize, length: Duration, now: Instant) -> Self {
        Self {
            capacity,
            slot: slot(length),
            since: now,
            current: Table::new(capacity),
            past: VecDeque::new(),
        }
    }

    /// `peer` did this just now.
    pub(super) fn add(&mut self, now: Instant, peer: PeerId, figures: Figures) {
        self.advance(now);
        self.current.add(peer, figures);
    }

    /// What peers did during the whole window. The past is shared, not copied.
    pub(super) fn snapshots(&mut self, now: Instant) -> Vec<Arc<Snapshot>> {
        self.advance(now);
        let current = Arc::new(self.current.snapshot());
        self.past.iter().cloned().chain([current]).collect()
    }

    /// Forgets what is older than the window.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= self.slot * SLOTS {
            // It is all over, and it need not be counted how often.
            self.past.clear();
            self.current = Table::new(self.capacity);
            self.since = now;
            return;
        }
        while now.saturating_duration_since(self.since) >= self.slot {
            self.past.push_back(Arc::new(self.current.snapshot()));
            self.current = Table::new(self.capacity);
            self.since += self.slot;
            if self.past.len() >= SLOTS as usize {
                self.past.pop_front();
            }
        }
    }
}

/// The step in which a window of this length moves on.
pub(super) fn slot(length: Duration) -> Duration {
    (length / SLOTS).max(Duration::from_millis(1))
}
