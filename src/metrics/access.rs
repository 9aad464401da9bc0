//! Metrics of access control.

use std::{sync::atomic::Ordering, time::Duration};

use opentelemetry::KeyValue;

use super::Metrics;
use crate::access::{AuthorizationOutcome, CacheLookup, Observer};

impl Observer for Metrics {
    fn decision(&self, outcome: AuthorizationOutcome, took: Duration) {
        let outcome = [KeyValue::new("outcome", outcome.as_str())];
        self.0
            .access_decision_duration
            .record(took.as_secs_f64(), &outcome);
    }

    fn lookup(&self, outcome: CacheLookup) {
        let outcome = [KeyValue::new("outcome", outcome.as_str())];
        self.0.access_lookups.add(1, &outcome);
    }

    fn rules(&self, number: usize) {
        self.0.access_rules.store(number as u64, Ordering::Relaxed);
    }

    fn reloaded(&self, success: bool) {
        let outcome = if success { "success" } else { "failure" };
        let outcome = [KeyValue::new("outcome", outcome)];
        self.0.access_reloads.add(1, &outcome);
        self.0.access_stale.store(!success, Ordering::Relaxed);
    }
}

impl Metrics {
    /// The number of rules in effect, and whether the file is invalid.
    pub(super) fn access(&self) -> (u64, bool) {
        (
            self.0.access_rules.load(Ordering::Relaxed),
            self.0.access_stale.load(Ordering::Relaxed),
        )
    }
}
