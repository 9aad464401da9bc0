//! Buckets of peers. A bucket exists while its peer has circuits, and after that until it is full.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use hashlink::LinkedHashMap;
use libp2p::PeerId;

use super::{ByteRate, fair_queue::FairQueue};

/// Maximum number of buckets of peers without circuits. Beyond it, the bucket that has been idle
/// for longest is dropped, and its peer gets a full one again. Filling this up gains nothing,
/// because a new peer id has a full bucket anyway.
pub(super) const MAX_IDLE: usize = 16 * 1024;

/// The buckets of peers; see the module documentation.
#[derive(Debug)]
pub(super) struct PeerBuckets {
    rate: ByteRate,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    active: HashMap<PeerId, ActivePeer>,
    /// Buckets of peers without circuits, the oldest first. They are kept because otherwise each
    /// new circuit would get another burst.
    idle: LinkedHashMap<PeerId, FairQueue>,
}

#[derive(Debug)]
struct ActivePeer {
    bucket: FairQueue,
    circuits: usize,
}

impl PeerBuckets {
    pub(super) fn new(rate: ByteRate) -> Self {
        Self {
            rate,
            state: Mutex::default(),
        }
    }

    /// Returns the bucket of a peer for one more circuit.
    pub(super) fn acquire(&self, peer: PeerId, now: Instant) -> FairQueue {
        let mut state = self.state();
        state.evict(now);
        let State { active, idle } = &mut *state;
        let entry = active.entry(peer).or_insert_with(|| ActivePeer {
            bucket: idle
                .remove(&peer)
                .unwrap_or_else(|| FairQueue::new(self.rate, now)),
            circuits: 0,
        });
        entry.circuits += 1;
        entry.bucket.clone()
    }

    /// Records that the peer has one circuit fewer.
    pub(super) fn release(&self, peer: PeerId, now: Instant) {
        let mut state = self.state();
        if let Some(entry) = state.active.get_mut(&peer) {
            entry.circuits = entry.circuits.saturating_sub(1);
            if entry.circuits == 0
                && let Some(entry) = state.active.remove(&peer)
            {
                state.idle.insert(peer, entry.bucket);
            }
        }
        state.evict(now);
    }

    /// Number of buckets of peers with circuits, and without.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let state = self.state();
        (state.active.len(), state.idle.len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops the oldest idle buckets while they are full or too many.
    fn evict(&mut self, now: Instant) {
        while let Some((_, bucket)) = self.idle.front()
            && (self.idle.len() > MAX_IDLE || bucket.is_full(now))
        {
            self.idle.pop_front();
        }
    }
}
