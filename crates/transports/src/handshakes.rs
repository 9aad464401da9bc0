//! Handshakes and connections of one transport, as guards that report their end.

use std::{sync::Arc, time::Instant};

use super::observer::{HandshakeOutcome, NoObserver, Observer};

/// Reports the handshakes of one transport. Clones share the observer.
#[derive(Clone, Debug)]
pub struct Handshakes {
    observer: Arc<dyn Observer>,
    transport: &'static str,
}

impl Handshakes {
    /// Reports the handshakes of `transport`: "tcp", "quic" or "websocket".
    pub fn new(observer: Arc<dyn Observer>, transport: &'static str) -> Self {
        Self {
            observer,
            transport,
        }
    }

    /// Without an observer.
    pub fn noop() -> Self {
        Self::new(NoObserver::shared(), "none")
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
            outcome: HandshakeOutcome::Failed,
        }
    }
}

/// A handshake in progress.
#[derive(Debug)]
pub(crate) struct Handshake {
    handshakes: Handshakes,
    security: &'static str,
    /// `None` if it is not measured.
    begun: Option<Instant>,
    outcome: HandshakeOutcome,
}

impl Handshake {
    /// Completes the handshake, and reports the connection.
    pub(crate) fn complete(mut self) -> ConnectionGuard {
        self.outcome = HandshakeOutcome::Completed;
        let Handshakes {
            observer,
            transport,
        } = self.handshakes.clone();
        observer.connection_opened(transport, self.security);
        ConnectionGuard {
            observer,
            transport,
            security: self.security,
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let Some(begun) = self.begun else { return };
        let Handshakes {
            observer,
            transport,
        } = &self.handshakes;
        observer.handshake_ended(transport, self.security, self.outcome, begun.elapsed());
    }
}

/// An open connection, whose end is reported when it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    observer: Arc<dyn Observer>,
    transport: &'static str,
    security: &'static str,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.observer
            .connection_closed(self.transport, self.security);
    }
}
