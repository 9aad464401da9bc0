//! Handshakes, and the connections that come of them.

use std::time::Instant;

use opentelemetry::KeyValue;

use super::Metrics;

/// Counts the handshakes of one transport. Clones share everything.
#[derive(Clone, Debug)]
pub struct Handshakes {
    metrics: Metrics,
    transport: &'static str,
}

impl Handshakes {
    /// Those of `transport`: "tcp", "quic" or "websocket".
    pub fn new(metrics: Metrics, transport: &'static str) -> Self {
        Self { metrics, transport }
    }

    /// Those that nobody wants to know of.
    pub fn noop() -> Self {
        Self::new(Metrics::noop(), "none")
    }

    /// A peer begins a handshake, by the means of `security`: "tls" or "noise". It has failed unless
    /// it is completed.
    pub(crate) fn begin(&self, security: &'static str) -> Handshake {
        self.start(security, Some(Instant::now()))
    }

    /// The relay begins a handshake, which is not measured: `AutoNAT` dials in order to learn
    /// whether somebody is there, and most often nobody is.
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

/// A handshake that is under way.
#[derive(Debug)]
pub struct Handshake {
    handshakes: Handshakes,
    security: &'static str,
    /// Nothing unless it is measured.
    begun: Option<Instant>,
    outcome: &'static str,
}

impl Handshake {
    /// Both sides know who the other one is.
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

/// A connection is open for as long as this lives.
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
