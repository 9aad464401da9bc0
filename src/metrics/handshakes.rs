//! Metrics of handshakes and connections.

use std::time::Instant;

use opentelemetry::KeyValue;

use super::Metrics;

/// Counts the handshakes of one transport. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Handshakes {
    metrics: Metrics,
    transport: &'static str,
}

impl Handshakes {
    /// Counts the handshakes of `transport`: "tcp", "quic" or "websocket".
    pub fn new(metrics: Metrics, transport: &'static str) -> Self {
        Self { metrics, transport }
    }

    /// Counts without a reader.
    pub fn noop() -> Self {
        Self::new(Metrics::noop(), "none")
    }

    /// Starts an incoming handshake with `security`, "tls" or "noise". It counts as failed unless it is
    /// completed.
    pub(crate) fn begin(&self, security: &'static str) -> Handshake {
        self.start(security, Some(Instant::now()))
    }

    /// Starts an outgoing handshake, which is not measured: `AutoNAT` dials to find out whether an
    /// address is reachable, and most are not.
    pub(crate) fn dial(&self, security: &'static str) -> Handshake {
        self.start(security, None)
    }

    fn start(&self, security: &'static str, begun: Option<Instant>) -> Handshake {
        Handshake {
            handshakes: self.clone(),
            security,
            begun,
            outcome: "failed",
        }
    }
}

/// A handshake in progress.
#[derive(Debug)]
pub struct Handshake {
    handshakes: Handshakes,
    security: &'static str,
    /// `None` if it is not measured.
    begun: Option<Instant>,
    outcome: &'static str,
}

impl Handshake {
    /// Completes the handshake, and counts the connection.
    pub(crate) fn complete(mut self) -> ConnectionGuard {
        self.outcome = "completed";
        let open = ConnectionGuard {
            metrics: self.handshakes.metrics.clone(),
            attributes: [
                KeyValue::new("transport", self.handshakes.transport),
                KeyValue::new("security", self.security),
            ],
        };
        open.count(1);
        open
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let Some(begun) = self.begun else { return };
        let attributes = [
            KeyValue::new("transport", self.handshakes.transport),
            KeyValue::new("security", self.security),
            KeyValue::new("outcome", self.outcome),
        ];
        let took = begun.elapsed().as_secs_f64();
        let instruments = &self.handshakes.metrics.0;
        instruments.handshake_duration.record(took, &attributes);
    }
}

/// Counts an open connection until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    metrics: Metrics,
    attributes: [KeyValue; 2],
}

impl ConnectionGuard {
    fn count(&self, change: i64) {
        self.metrics.0.connections.add(change, &self.attributes);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.count(-1);
    }
}
