//! Metrics of access control.

use std::{sync::atomic::Ordering, time::Duration};

use opentelemetry::KeyValue;

use super::Metrics;

impl Metrics {
    /// Records a query to the access endpoint. `outcome` is "allowed", "denied", "timeout",
    /// "unreachable", "invalid" or "overloaded".
    pub(crate) fn access_decision(&self, outcome: &'static str, took: Duration) {
        let outcome = [KeyValue::new("outcome", outcome)];
        self.0
            .access_decision_duration
            .record(took.as_secs_f64(), &outcome);
    }

    /// Counts a lookup in the cache of decisions: "hit", "miss", or "coalesced" with an identical query
    /// in progress.
    pub(crate) fn access_lookup(&self, outcome: &'static str) {
        let outcome = [KeyValue::new("outcome", outcome)];
        self.0.access_lookups.add(1, &outcome);
    }

    /// Sets the number of rules in effect.
    pub(crate) fn access_rules(&self, number: usize) {
        self.0.access_rules.store(number as u64, Ordering::Relaxed);
    }

    /// Counts a reload of the file of rules. After a failure, older rules stay in effect.
    pub(crate) fn access_reloaded(&self, success: bool) {
        let outcome = if success { "success" } else { "failure" };
        let outcome = [KeyValue::new("outcome", outcome)];
        self.0.access_reloads.add(1, &outcome);
        self.0.access_stale.store(!success, Ordering::Relaxed);
    }

    /// The number of rules in effect, and whether the file is invalid.
    pub(super) fn access(&self) -> (u64, bool) {
        (
            self.0.access_rules.load(Ordering::Relaxed),
            self.0.access_stale.load(Ordering::Relaxed),
        )
    }
}
