//! What a limiter remembers of its keys: one number each, and of so many keys only.
//!
//! A key that is not remembered begins with its whole burst. When there is no room for another one,
//! those that have not been used for the longest time are forgotten; one that is limited right
//! now is used all the time, so a flood of new keys gains nothing but new keys. Against a
//! stranger with very many of those a rate for each is no help, whatever is remembered: the limits
//! of all together are.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

use governor::{nanos::Nanos, state::StateStore};

/// Keys that a limiter remembers at most, some 35 bytes each; at least half of them, which are as
/// many as there can be connections.
pub const MAX_KEYS: usize = SHARDS * 2 * GENERATION;

/// Neighbours do not wait for each other, and when a table grows it is a small one.
const SHARDS: usize = 16;
/// Keys of a shard that are forgotten together.
const GENERATION: usize = 2048;

/// When the debt of each key will be paid. Keys are hashes, evenly spread.
pub(super) struct ShardedStore([Mutex<Shard>; SHARDS]);

/// In two tables, and in no list: what is small and stays for long would lie all over the heap, and
/// keep the pages from being given back that it shares with what has gone.
#[derive(Default)]
struct Shard {
    /// Keys that were used since the older ones were.
    young: HashMap<u64, Nanos>,
    old: HashMap<u64, Nanos>,
}

impl Shard {
    /// What is remembered of a key, which is used now.
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

    /// Keys that are remembered.
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
