//! One rate for many keys.

use std::{
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    marker::PhantomData,
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{self, Clock as _},
};

use super::{Rate, state_store::ShardedStore};

/// Applies one [`Rate`] to every key by itself. It remembers [`MAX_KEYS`](super::MAX_KEYS) keys; see
/// the module `state_store` for what becomes of the rest. Whatever is asked takes the same time.
pub struct Limiter<K> {
    rate: RateLimiter<u64, ShardedStore, Clock>,
    /// Keys are remembered by a hash that nobody outside can guess: it takes the same little room
    /// whatever the key is, and nobody can make up two keys with one hash.
    hasher: RandomState,
    keys: PhantomData<fn(K)>,
}

impl<K: Hash> Limiter<K> {
    /// Nobody has been here yet.
    pub fn new(rate: Rate) -> Self {
        let quota = Quota::with_period(rate.interval())
            .unwrap_or(Quota::per_second(rate.refill))
            .allow_burst(rate.burst);
        Self {
            rate: RateLimiter::new(quota, ShardedStore::new(), Clock),
            hasher: RandomState::new(),
            keys: PhantomData,
        }
    }

    /// Whether `key` may do it once more. It counts only if so: whoever is refused does not wait
    /// any longer for it.
    pub fn allows(&self, key: &K) -> bool {
        self.check(key).is_ok()
    }

    /// The same.
    ///
    /// # Errors
    /// When it is not allowed: the time until it is, unless the key is used meanwhile.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        self.rate
            .check_key(&self.hasher.hash_one(key))
            .map_err(|not_until| not_until.wait_time_from(Clock.now()))
    }
}

impl<K> fmt::Debug for Limiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}

/// The clock that paused tests move.
struct Clock;

impl clock::Clock for Clock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
