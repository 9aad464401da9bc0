//! What the transports report to the program that embeds them.

use std::{fmt::Debug, sync::Arc, time::Duration};

/// Receives reports of handshakes, connections and sockets, for example to count them. The methods
/// are called within polls, and must not block. The default is to ignore a report.
pub trait Observer: Debug + Send + Sync + 'static {
    /// An incoming handshake has ended after `took`. `transport` is "tcp", "quic" or "websocket",
    /// `security` is "tls" or "noise".
    fn handshake_ended(
        &self,
        transport: &'static str,
        security: &'static str,
        outcome: HandshakeOutcome,
        took: Duration,
    ) {
        let _ = (transport, security, outcome, took);
    }

    /// A connection is established, incoming or outgoing.
    fn connection_opened(&self, transport: &'static str, security: &'static str) {
        let _ = (transport, security);
    }

    /// An established connection has ended.
    fn connection_closed(&self, transport: &'static str, security: &'static str) {
        let _ = (transport, security);
    }

    /// A connection was denied, or closed to free resources. `reason` is the name of a
    /// [`ConnectionDenyReason`](resource_manager::ConnectionDenyReason).
    fn connection_denied(&self, reason: &'static str) {
        let _ = reason;
    }

    /// QUIC packets to one destination are sent without segmentation offload for a while.
    fn offload_fallback(&self) {}
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// The peer is authenticated.
    Completed,
    /// The handshake failed, or timed out.
    Failed,
}

impl HandshakeOutcome {
    /// A short, stable name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// Ignores all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

impl NoObserver {
    /// As a shared trait object.
    pub fn shared() -> Arc<dyn Observer> {
        Arc::new(Self)
    }
}
