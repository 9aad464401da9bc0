//! What a limiter remembers of its keys: one number each, and of so many keys only.
//!
//! A key that is not remembered begins with its whole burst. When there is no room for another one,
//! the key that has not been heard of for the longest time is forgotten; one that is limited right
//! now is heard of all the time, so a flood of new keys gains nothing but new keys. Against a
//! stranger with very many of those a rate for each is no help, whatever is remembered: the limits
//! of all together are.

use std::sync::{Mutex, PoisonError};

use governor::{nanos::Nanos, state::StateStore};
use hashlink::LruCache;

/// Keys that a limiter remembers, some 70 bytes each. Twice as many as there can be connections.
pub const MAX_KEYS: usize = SHARDS * KEYS_OF_SHARD;

/// Neighbours do not wait for each other, and when a table grows it is a small one.
const SHARDS: usize = 16;
const KEYS_OF_SHARD: usize = 4096;

/// When the debt of each key will be paid. Keys are hashes, evenly spread.
pub(super) struct Cells([Mutex<LruCache<u64, Nanos>>; SHARDS]);

impl Cells {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| {
            Mutex::new(LruCache::new(KEYS_OF_SHARD))
        }))
    }

    /// Keys that are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let lock = |shard: &Mutex<LruCache<_, _>>| shard.lock().unwrap().len();
        self.0.iter().map(lock).sum()
    }
}

impl StateStore for Cells {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let shard = usize::try_from(key % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.0.get(shard) else {
            return measure(None).map(|(outcome, _)| outcome);
        };
        let mut cells = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, next) = measure(cells.get(key).copied())?;
        cells.insert(*key, next);
        Ok(outcome)
    }
}
