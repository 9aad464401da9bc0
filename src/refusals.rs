//! Lines of the log about what is refused: no more of them than somebody can read.
//!
//! Whoever floods the relay is refused, and must not flood its log by that. Of the same refusals
//! for the same reason, the first hundred and then ten a second are told one by one; the number of
//! the others follows every ten seconds. Metrics count them all.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tracing::info;

use crate::rate::{Limiter, Rate, Unit};

/// Lines of one kind and reason: a hundred at once, and then ten a second.
const LINES: Rate = Rate {
    burst: at_least_one(100),
    refill: at_least_one(10),
    per: Unit::Second,
};

/// How often the number of those that were not told one by one is told.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

const fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(number.saturating_sub(1))
}

/// What is refused: a connection or a request, and why, in a short, stable word.
type Refusal = (&'static str, &'static str);

/// The lines about refusals. Clones share everything.
#[derive(Clone, Debug)]
pub struct Refusals(Arc<Lines>);

#[derive(Debug)]
struct Lines {
    limiter: Limiter<Refusal>,
    /// How many have not been told; no more entries than there are words.
    untold: Mutex<BTreeMap<Refusal, u64>>,
    first_untold: Notify,
}

impl Refusals {
    /// Nothing has been refused yet.
    pub fn new() -> Self {
        Self(Arc::new(Lines {
            limiter: Limiter::new(LINES),
            untold: Mutex::default(),
            first_untold: Notify::new(),
        }))
    }

    /// Whether a line may be written about this refusal; otherwise it is told of later, as one of
    /// so many. `what` is "connection" or "request".
    pub(crate) fn may_tell(&self, what: &'static str, reason: &'static str) -> bool {
        let refusal = (what, reason);
        if self.0.limiter.allows(&refusal) {
            return true;
        }
        let mut untold = self.untold();
        if untold.is_empty() {
            self.0.first_untold.notify_one();
        }
        let number = untold.entry(refusal).or_default();
        *number = number.saturating_add(1);
        false
    }

    /// Tells how many were not told one by one. Runs until the relay stops.
    pub(crate) async fn tell_rest(self) {
        loop {
            self.0.first_untold.notified().await;
            sleep(SUMMARY_INTERVAL).await;
            let untold = std::mem::take(&mut *self.untold());
            for ((refused, reason), number) in untold {
                info!(refused, reason, number, "more was refused");
            }
        }
    }

    fn untold(&self) -> MutexGuard<'_, BTreeMap<Refusal, u64>> {
        self.0.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_a_few_lines_and_a_number() {
        let refusals = Refusals::new();
        let told = |reason| {
            let lines = (0..10_000).filter(|_| refusals.may_tell("request", reason));
            lines.count()
        };
        assert_eq!((told("one"), told("other")), (100, 100));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(told("one"), 10);
        let untold = refusals.untold().clone();
        assert_eq!(untold[&("request", "one")], 19_890);
        assert_eq!(untold[&("request", "other")], 9_900);

        let rest = refusals.clone().tell_rest();
        let _ = tokio::time::timeout(SUMMARY_INTERVAL + Duration::from_secs(1), rest).await;
        assert!(refusals.untold().is_empty());
        assert!(refusals.may_tell("request", "one"));
    }
}
