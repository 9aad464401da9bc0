//! Metrics of what the transports report.

use std::{sync::atomic::Ordering, time::Duration};

use opentelemetry::KeyValue;
use transports::observer::{HandshakeOutcome, Observer};

use super::Metrics;

impl Observer for Metrics {
    fn handshake_ended(
        &self,
        transport: &'static str,
        security: &'static str,
        outcome: HandshakeOutcome,
        took: Duration,
    ) {
        let attributes = [
            KeyValue::new("transport", transport),
            KeyValue::new("security", security),
            KeyValue::new("outcome", outcome.as_str()),
        ];
        self.0
            .handshake_duration
            .record(took.as_secs_f64(), &attributes);
    }

    fn connection_opened(&self, transport: &'static str, security: &'static str) {
        self.count_connections(transport, security, 1);
    }

    fn connection_closed(&self, transport: &'static str, security: &'static str) {
        self.count_connections(transport, security, -1);
    }

    fn connection_denied(&self, reason: &'static str) {
        self.0.denied.add(1, &[KeyValue::new("reason", reason)]);
        self.0.refusals.connections.add(reason);
    }

    fn offload_fallback(&self) {
        self.0.offload_fallbacks.add(1, &[]);
    }
}

impl Metrics {
    fn count_connections(&self, transport: &'static str, security: &'static str, change: i64) {
        let attributes = [
            KeyValue::new("transport", transport),
            KeyValue::new("security", security),
        ];
        self.0.connections.add(change, &attributes);
        self.0.established.fetch_add(change, Ordering::Relaxed);
    }
}
