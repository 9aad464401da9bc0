//! A semaphore per key, so that a key with many requests delays only its own.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits per key. A key without permits and waiters takes no memory.
#[derive(Debug)]
pub(super) struct KeyedSemaphore<K: Copy + Eq + Hash> {
    keys: Mutex<HashMap<K, Entry>>,
}

#[derive(Debug)]
struct Entry {
    permits: Arc<Semaphore>,
    /// Permits and waiters of the key.
    users: usize,
}

impl<K: Copy + Eq + Hash> KeyedSemaphore<K> {
    pub(super) fn new() -> Self {
        Self {
            keys: Mutex::default(),
        }
    }

    /// Waits for one of the `number` permits of `key`. Dropping the guard returns it.
    pub(super) async fn acquire(&self, key: K, number: usize) -> Permit<'_, K> {
        let mut permit = self.enter(key, number);
        // The semaphore is never closed.
        permit.held = Arc::clone(&permit.permits).acquire_owned().await.ok();
        permit
    }

    /// Registers a waiter until the guard is dropped.
    fn enter(&self, key: K, number: usize) -> Permit<'_, K> {
        let mut keys = self.keys();
        let entry = keys.entry(key).or_insert_with(|| Entry {
            permits: Arc::new(Semaphore::new(number)),
            users: 0,
        });
        entry.users += 1;
        Permit {
            semaphore: self,
            key,
            permits: Arc::clone(&entry.permits),
            held: None,
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit, or a waiter for one.
#[derive(Debug)]
pub(super) struct Permit<'a, K: Copy + Eq + Hash> {
    semaphore: &'a KeyedSemaphore<K>,
    key: K,
    permits: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl<K: Copy + Eq + Hash> Drop for Permit<'_, K> {
    fn drop(&mut self) {
        self.held = None;
        let mut keys = self.semaphore.keys();
        if let Some(entry) = keys.get_mut(&self.key) {
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use libp2p::PeerId;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_wait_for_their_own_permits_and_are_removed() {
        let semaphore = KeyedSemaphore::new();
        let (greedy, modest) = (PeerId::random(), PeerId::random());
        let first = semaphore.acquire(greedy, 2).await;
        let second = semaphore.acquire(greedy, 2).await;
        let wait = Duration::from_secs(1);
        let third = timeout(wait, semaphore.acquire(greedy, 2));
        assert!(third.await.is_err());
        drop(semaphore.acquire(modest, 2).await);
        assert_eq!(semaphore.keys().len(), 1);
        let third = timeout(wait, semaphore.acquire(greedy, 2));
        let (third, ()) = tokio::join!(third, async { drop(first) });
        drop((second, third.unwrap()));
        assert!(semaphore.keys().is_empty());
    }
}
