//! Coalesces identical concurrent queries into one.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

/// Pending queries. A query that is not pending takes no memory.
#[derive(Debug)]
pub(super) struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Flight<V>>>,
}

#[derive(Debug)]
struct Flight<V> {
    response: Arc<OnceCell<V>>,
    /// Callers that wait for the response.
    waiters: usize,
}

impl<K: Clone + Eq + Hash, V: Clone> SingleFlight<K, V> {
    pub(super) fn new() -> Self {
        Self {
            flights: Mutex::default(),
        }
    }

    /// Runs `ask`, or waits for the response of an identical pending query. If the caller that runs
    /// it is dropped, another waiting caller runs its own `ask`. A response is shared only with
    /// callers that were waiting for it.
    pub(super) async fn run<F: Future<Output = V>>(&self, key: K, ask: impl FnOnce() -> F) -> V {
        let waiter = self.enter(key);
        let response = waiter.response.get_or_init(ask).await.clone();
        waiter.finish();
        response
    }

    fn enter(&self, key: K) -> Waiter<'_, K, V> {
        let mut flights = self.flights();
        let flight = flights.entry(key.clone()).or_insert_with(|| Flight {
            response: Arc::default(),
            waiters: 0,
        });
        flight.waiters += 1;
        Waiter {
            response: Arc::clone(&flight.response),
            flights: self,
            key,
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits for a response.
struct Waiter<'a, K: Clone + Eq + Hash, V: Clone> {
    flights: &'a SingleFlight<K, V>,
    key: K,
    response: Arc<OnceCell<V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Waiter<'_, K, V> {
    /// Removes the flight, so that later queries start another one.
    fn finish(self) {
        let mut flights = self.flights.flights();
        if is_of(flights.get(&self.key), &self.response) {
            flights.remove(&self.key);
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Drop for Waiter<'_, K, V> {
    fn drop(&mut self) {
        let mut flights = self.flights.flights();
        let Some(flight) = flights.get_mut(&self.key) else {
            return;
        };
        if !Arc::ptr_eq(&flight.response, &self.response) {
            return;
        }
        flight.waiters = flight.waiters.saturating_sub(1);
        if flight.waiters == 0 {
            flights.remove(&self.key);
        }
    }
}

fn is_of<V>(flight: Option<&Flight<V>>, response: &Arc<OnceCell<V>>) -> bool {
    flight.is_some_and(|flight| Arc::ptr_eq(&flight.response, response))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    struct Endpoint {
        flights: SingleFlight<&'static str, usize>,
        asked: AtomicUsize,
    }

    impl Endpoint {
        fn new() -> Self {
            Self {
                flights: SingleFlight::new(),
                asked: AtomicUsize::new(0),
            }
        }

        async fn ask(&self, key: &'static str) -> usize {
            let ask = async || {
                sleep(Duration::from_secs(1)).await;
                self.asked.fetch_add(1, Ordering::Relaxed) + 1
            };
            self.flights.run(key, ask).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_identical_queries_share_a_response() {
        let endpoint = Endpoint::new();
        let same = join_all((0..10).map(|_| endpoint.ask("a")));
        let (same, other) = tokio::join!(same, endpoint.ask("b"));
        assert_eq!(
            same.iter().filter(|response| **response == same[0]).count(),
            10
        );
        assert_eq!(same[0] + other, 3);
        assert_eq!(endpoint.ask("a").await, 3);
        assert!(endpoint.flights.flights().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn query_is_repeated_when_its_first_caller_gives_up() {
        let endpoint = Endpoint::new();
        let first = timeout(Duration::from_millis(500), endpoint.ask("a"));
        let (first, second) = tokio::join!(first, endpoint.ask("a"));
        assert!(first.is_err());
        assert_eq!(second, 1);
        assert!(endpoint.flights.flights().is_empty());
        // Callers that all gave up leave no state.
        let given_up = timeout(Duration::from_millis(500), endpoint.ask("a"));
        assert!(given_up.await.is_err());
        assert!(endpoint.flights.flights().is_empty());
    }
}
