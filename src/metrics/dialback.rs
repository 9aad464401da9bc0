//! Metrics of dial requests over `AutoNAT`.

use opentelemetry::KeyValue;

use super::Metrics;
use crate::dialback::{DialOutcome, Observer};

impl Observer for Metrics {
    fn dials_requested(&self, outcome: DialOutcome, number: usize) {
        let outcome = [KeyValue::new("outcome", outcome.as_str())];
        self.0.autonat_dials.add(number as u64, &outcome);
    }
}
