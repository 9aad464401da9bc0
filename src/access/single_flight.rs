//! Identical questions that are under way at once share one answer.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

/// The questions under way. A question that is not under way takes no memory.
#[derive(Debug)]
pub(super) struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Flight<V>>>,
}

#[derive(Debug)]
struct Flight<V> {
    answer: Arc<OnceCell<V>>,
    /// Callers that wait for the answer.
    users: usize,
}

impl<K: Clone + Eq + Hash, V: Clone> SingleFlight<K, V> {
    pub(super) fn new() -> Self {
        Self {
            flights: Mutex::default(),
        }
    }

    /// The answer to `question` by `ask`, or by that of an identical question which is under way. If
    /// that caller gives up, another one asks anew. An answer is given to those alone that waited
    /// for it.
    pub(super) async fn answer<F: Future<Output = V>>(
        &self,
        question: K,
        ask: impl FnOnce() -> F,
    ) -> V {
        let user = self.enter(question);
        let answer = user.answer.get_or_init(ask).await.clone();
        user.finish();
        answer
    }

    fn enter(&self, question: K) -> User<'_, K, V> {
        let mut flights = self.flights();
        let flight = flights.entry(question.clone()).or_insert_with(|| Flight {
            answer: Arc::default(),
            users: 0,
        });
        flight.users += 1;
        User {
            answer: Arc::clone(&flight.answer),
            flights: self,
            question,
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits for an answer.
struct User<'a, K: Clone + Eq + Hash, V: Clone> {
    flights: &'a SingleFlight<K, V>,
    question: K,
    answer: Arc<OnceCell<V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> User<'_, K, V> {
    /// The flight has its answer: a later question begins another one.
    fn finish(self) {
        let mut flights = self.flights.flights();
        if is_of(flights.get(&self.question), &self.answer) {
            flights.remove(&self.question);
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Drop for User<'_, K, V> {
    fn drop(&mut self) {
        let mut flights = self.flights.flights();
        let Some(flight) = flights.get_mut(&self.question) else {
            return;
        };
        if !Arc::ptr_eq(&flight.answer, &self.answer) {
            return;
        }
        flight.users = flight.users.saturating_sub(1);
        if flight.users == 0 {
            flights.remove(&self.question);
        }
    }
}

fn is_of<V>(flight: Option<&Flight<V>>, answer: &Arc<OnceCell<V>>) -> bool {
    flight.is_some_and(|flight| Arc::ptr_eq(&flight.answer, answer))
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

        async fn ask(&self, question: &'static str) -> usize {
            let ask = async || {
                sleep(Duration::from_secs(1)).await;
                self.asked.fetch_add(1, Ordering::Relaxed) + 1
            };
            self.flights.answer(question, ask).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn identical_questions_share_an_answer_and_later_ones_do_not() {
        let endpoint = Endpoint::new();
        let same = join_all((0..10).map(|_| endpoint.ask("a")));
        let (same, other) = tokio::join!(same, endpoint.ask("b"));
        assert_eq!(same.iter().filter(|answer| **answer == same[0]).count(), 10);
        assert_eq!(same[0] + other, 3);
        assert_eq!(endpoint.ask("a").await, 3);
        assert!(endpoint.flights.flights().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn question_is_asked_anew_when_its_first_caller_gives_up() {
        let endpoint = Endpoint::new();
        let first = timeout(Duration::from_millis(500), endpoint.ask("a"));
        let (first, second) = tokio::join!(first, endpoint.ask("a"));
        assert!(first.is_err());
        assert_eq!(second, 1);
        assert!(endpoint.flights.flights().is_empty());
        // Nothing is left of callers that all gave up.
        let given_up = timeout(Duration::from_millis(500), endpoint.ask("a"));
        assert!(given_up.await.is_err());
        assert!(endpoint.flights.flights().is_empty());
    }
}
