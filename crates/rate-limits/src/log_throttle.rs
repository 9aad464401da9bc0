//! Rate limit of log lines about refused connections and requests.
//!
//! A flood of refused requests must not flood the log. For each kind and reason, the first 100 and
//! then 10 refusals a second are logged one by one; the number of suppressed ones is logged every
//! 10 s. Metrics count all of them.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tracing::info;

use crate::{Limiter, Rate, Unit};

/// Log lines of one kind and reason: a burst of 100, then 10 a second.
const RATE: Rate = Rate {
    burst: at_least_one(100),
    refill: at_least_one(10),
    per: Unit::Second,
};

/// Interval at which the number of suppressed lines is logged.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

const fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(number.saturating_sub(1))
}

/// Kind of a refusal ("connection" or "request") and its reason.
type Key = (&'static str, &'static str);

/// Decides which refusals are logged one by one. Clones share their state.
#[derive(Clone, Debug)]
pub struct LogThrottle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limiter: Limiter<Key>,
    /// Number of suppressed lines. Bounded by the number of kinds and reasons, which are constants.
    suppressed: Mutex<BTreeMap<Key, u64>>,
    first_suppressed: Notify,
}

impl LogThrottle {
    /// Creates a throttle with its whole burst available.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            limiter: Limiter::new(RATE),
            suppressed: Mutex::default(),
            first_suppressed: Notify::new(),
        }))
    }

    /// Whether this refusal may be logged; otherwise it is counted for the next summary. `kind` is
    /// "connection" or "request".
    pub fn should_log(&self, kind: &'static str, reason: &'static str) -> bool {
        let key = (kind, reason);
        if self.0.limiter.allows(&key) {
            return true;
        }
        let mut suppressed = self.suppressed();
        if suppressed.is_empty() {
            self.0.first_suppressed.notify_one();
        }
        let number = suppressed.entry(key).or_default();
        *number = number.saturating_add(1);
        false
    }

    /// Logs the numbers of suppressed refusals at intervals. Runs until the relay stops.
    pub async fn log_suppressed(self) {
        loop {
            self.0.first_suppressed.notified().await;
            sleep(SUMMARY_INTERVAL).await;
            let suppressed = std::mem::take(&mut *self.suppressed());
            for ((refused, reason), number) in suppressed {
                info!(refused, reason, number, "suppressed refusals");
            }
        }
    }

    fn suppressed(&self) -> MutexGuard<'_, BTreeMap<Key, u64>> {
        self.0
            .suppressed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn flood_is_logged_as_a_few_lines_and_a_number() {
        let throttle = LogThrottle::new();
        let logged = |reason| {
            let lines = (0..10_000).filter(|_| throttle.should_log("request", reason));
            lines.count()
        };
        assert_eq!((logged("one"), logged("other")), (100, 100));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(logged("one"), 10);
        let suppressed = throttle.suppressed().clone();
        assert_eq!(suppressed[&("request", "one")], 19_890);
        assert_eq!(suppressed[&("request", "other")], 9_900);

        let summary = throttle.clone().log_suppressed();
        let _ = tokio::time::timeout(SUMMARY_INTERVAL + Duration::from_secs(1), summary).await;
        assert!(throttle.suppressed().is_empty());
        assert!(throttle.should_log("request", "one"));
    }
}
