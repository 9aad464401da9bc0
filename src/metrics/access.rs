//! What access control tells.

use std::{sync::atomic::Ordering, time::Duration};

use opentelemetry::KeyValue;

use super::Metrics;

impl Metrics {
    /// The access endpoint was asked, and `outcome` came of it: "allowed", "denied", "timeout",
    /// "unreachable", "invalid" or "overloaded".
    pub(crate) fn access_decision(&self, outcome: &'static str, took: Duration) {
        let outcome = [KeyValue::new("outcome", outcome)];
        self.0
            .access_decision_duration
            .record(took.as_secs_f64(), &outcome);
    }

    /// A decision was remembered ("hit"), was not ("miss"), or was that of an identical question under
    /// way ("coalesced").
    pub(crate) fn access_lookup(&self, outcome: &'static str) {
        let outcome = [KeyValue::new("outcome", outcome)];
        self.0.access_lookups.add(1, &outcome);
    }

    /// So many rules hold.
    pub(crate) fn access_rules(&self, number: usize) {
        self.0.access_rules.store(number as u64, Ordering::Relaxed);
    }

    /// The file of rules was read again. Unless that worked, older rules hold.
    pub(crate) fn access_reloaded(&self, success: bool) {
        let outcome = if success { "success" } else { "failure" };
        let outcome = [KeyValue::new("outcome", outcome)];
        self.0.access_reloads.add(1, &outcome);
        self.0.access_stale.store(!success, Ordering::Relaxed);
    }

    /// How many rules hold, and whether the file says something else.
    pub(super) fn access(&self) -> (u64, bool) {
        (
            self.0.access_rules.load(Ordering::Relaxed),
            self.0.access_stale.load(Ordering::Relaxed),
        )
    }
}
