//! The buckets of peers, which exist while their peers have circuits, and until they are full.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use hashlink::LinkedHashMap;
use libp2p::PeerId;

use super::{ByteRate, fair_queue::FairQueue};

/// Buckets that are kept of peers without a circuit. Beyond it, the one whose peer has been without
/// for longest is forgotten: its peer comes back to a full one. Nobody gains by filling this up:
/// a peer that is not known yet has a full one anyway.
pub(super) const MAX_IDLE: usize = 16 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PeerBuckets {
    rate: ByteRate,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    active: HashMap<PeerId, ActivePeer>,
    /// Of peers without a circuit, that are to find them again as they were: otherwise a new
    /// circuit would give them another burst each time. The oldest come first.
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

    /// The bucket of a peer that has one more circuit.
    pub(super) fn acquire(&self, peer: PeerId, now: Instant) -> FairQueue {
        let mut state = self.state();
        state.forget(now);
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

    /// The peer has one circuit fewer.
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
        state.forget(now);
    }

    /// How many buckets there are: of peers with circuits, and of others.
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
    /// Drops the oldest that rest, as long as they are full or too many.
    fn forget(&mut self, now: Instant) {
        while let Some((_, bucket)) = self.idle.front()
            && (self.idle.len() > MAX_IDLE || bucket.is_full(now))
        {
            self.idle.pop_front();
        }
    }
}
