//! A rate limiter for many keys.

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

/// Applies one [`Rate`] to each key separately. Keeps the state of at most
/// [`MAX_KEYS`](super::MAX_KEYS) keys; the module `state_store` describes the eviction. Every
/// operation takes constant time.
pub struct Limiter<K> {
    rate: RateLimiter<u64, ShardedStore, Clock>,
    /// Keys are stored as keyed hashes: this takes the same memory for every type of key, and an
    /// attacker cannot construct collisions.
    hasher: RandomState,
    keys: PhantomData<fn(K)>,
}

impl<K: Hash> Limiter<K> {
    /// Creates a limiter without any state.
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

    /// Whether `key` is allowed once more. Only allowed attempts count, so denied ones do not
    /// extend the wait.
    pub fn allows(&self, key: &K) -> bool {
        self.check(key).is_ok()
    }

    /// Like [`Self::allows`], with the wait.
    ///
    /// # Errors
    /// If the key is denied: the time until it is allowed, unless it is used before.
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

/// A clock that tests with paused time control.
struct Clock;

impl clock::Clock for Clock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
