//! The states of a limiter's keys: one number for each of a bounded number of keys.
//!
//! A key without state has its whole burst. When the store is full, the keys that have not been
//! used for the longest time are evicted. A key that is being limited is used all the time, so a
//! flood of new keys does not reset it. Against an attacker with very many keys a rate per key does
//! not help in any case; the total limits do.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

use governor::{nanos::Nanos, state::StateStore};

/// Maximum number of keys with state, at about 35 bytes each. At least half of them, which is the
/// maximum number of connections, are kept.
pub const MAX_KEYS: usize = SHARDS * 2 * GENERATION;

/// Shards reduce lock contention, and keep the tables that are resized small.
const SHARDS: usize = 16;
/// Keys of a shard that are evicted together.
const GENERATION: usize = 2048;

/// Theoretical arrival time of each key (GCRA), sharded by the hash of the key.
pub(super) struct ShardedStore([Mutex<Shard>; SHARDS]);

/// Two tables instead of a linked list: small long-lived allocations would be scattered over the
/// heap and keep its pages from being released.
#[derive(Default)]
struct Shard {
    /// Keys used since the last eviction.
    young: HashMap<u64, Nanos>,
    old: HashMap<u64, Nanos>,
}

impl Shard {
    /// The state of a key, which is marked as used.
    fn get(&mut self, key: u64) -> Option<Nanos> {
        if let Some(state) = self.young.get(&key) {
            return Some(*state);
        }
        let state = self.old.remove(&key)?;
        self.insert(key, state);
        Some(state)
    }

    fn insert(&mut self, key: u64, state: Nanos) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, state);
    }
}

impl ShardedStore {
    pub(super) fn new() -> Self {
        Self(Default::default())
    }

    /// Number of keys with state.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let count = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap();
            shard.young.len() + shard.old.len()
        };
        self.0.iter().map(count).sum()
    }
}

impl StateStore for ShardedStore {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let shard = usize::try_from(key % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.0.get(shard) else {
            return measure(None).map(|(outcome, _)| outcome);
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, next) = measure(shard.get(*key))?;
        shard.insert(*key, next);
        Ok(outcome)
    }
}
