//! Observation as the protocol uses it: traits that receive reports of requests, reservations and
//! circuits.
//!
//! ```text
//! Observer ── request() ──► RequestObserver ── stop() ──► StopObserver
//!                                │
//!                                └─ circuit_accepted() ──► CircuitObserver
//! ```
//!
//! The relay keeps no logs, metrics or spans itself. Every method does nothing by default, and
//! methods are called within the task of the request or the circuit: an implementation must neither
//! block nor panic. The unit type observes nothing.

use std::{fmt, pin::Pin, task::Poll, time::Duration};

use futures::future::poll_fn;
use libp2p::{PeerId, identity::SigningError};
use named_enum::named_enum;

use super::{
    access::Requester,
    circuit::Outcome,
    connection::{Connection, Transport},
    deny_reason::Denied,
    ledger::ReservationEndCause,
    wire::Request,
};

named_enum! {
    /// Kind of a request on a hop stream.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum RequestKind {
        /// RESERVE.
        Reserve = "reserve",
        /// CONNECT.
        Connect = "connect",
        /// No request could be read.
        Unknown = "unknown",
    }
}

named_enum! {
    /// Outcome of an attempt to open a circuit on a connection of its target.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum StopOutcome {
        /// The target accepted the circuit.
        Accepted = "accepted",
        /// The target refused the circuit.
        Refused = "refused",
        /// The stream failed, or the target did not answer in time.
        Failed = "failed",
        /// Another attempt was faster, or the source gave up.
        Abandoned = "abandoned",
    }
}

/// Receives the reports of a relay.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A request was read. The returned observer follows it until it has been answered or denied.
    fn request(&self, from: &Requester, request: &Request) -> Box<dyn RequestObserver> {
        let _ = (from, request);
        Box::new(())
    }

    /// A request of `peer` was denied, or no request could be read. Requests for a reservation
    /// whose answer could not be delivered are reported as accepted, and as closed.
    fn request_denied(&self, peer: PeerId, request: RequestKind, denied: &Denied) {
        let _ = (peer, request, denied);
    }

    /// A reservation of `peer` was granted for `ttl`. `renewed_after` is the age of the grant that
    /// this one renews; `None` for a new reservation.
    fn reservation_accepted(&self, peer: PeerId, renewed_after: Option<Duration>, ttl: Duration) {
        let _ = (peer, renewed_after, ttl);
    }

    /// An early renewal was answered with the existing expiry.
    fn reservation_repeated(&self, peer: PeerId) {
        let _ = peer;
    }

    /// The reservation of `peer` ended, `lasted` after it was first granted.
    fn reservation_ended(&self, peer: PeerId, cause: ReservationEndCause, lasted: Duration) {
        let _ = (peer, cause, lasted);
    }

    /// An attempt to open a circuit on one connection of its target ended after `took`.
    fn stop_attempted(&self, outcome: StopOutcome, took: Duration) {
        let _ = (outcome, took);
    }

    /// The key of the relay cannot sign reservation vouchers, so no reservation can be granted.
    fn signing_failed(&self, error: &SigningError) {
        let _ = error;
    }
}

/// Follows one request. Dropped without a report if the connection or the relay closes before.
pub trait RequestObserver: Send + Sync {
    /// Calls `poll` once, which continues the request: it runs the decisions of
    /// [`Access`](super::Access) and all reports about the request. An implementation may do so
    /// within a tracing span.
    fn in_scope(&self, poll: &mut dyn FnMut()) {
        poll();
    }

    /// The relay begins to open the circuit on the connections of its target.
    fn stop(&self) -> Box<dyn StopObserver> {
        Box::new(())
    }

    /// The request was accepted and answered, or denied. Called at most once.
    fn finished(&self, result: Result<(), &Denied>) {
        let _ = result;
    }

    /// The circuit of an accepted CONNECT is open. The returned observer follows it to its end.
    fn circuit_accepted(self: Box<Self>, source: Leg, target: Leg) -> Box<dyn CircuitObserver> {
        let _ = (source, target);
        Box::new(())
    }
}

/// Follows the attempts to open a circuit on the connections of its target.
pub trait StopObserver: Send + Sync {
    /// All attempts have ended. Called exactly once, even if the source gives up.
    fn finished(&self, stop: &FinishedStop) {
        let _ = stop;
    }
}

/// Follows one open circuit. Dropped without a report if the task of the circuit is cancelled.
pub trait CircuitObserver: Send + Sync {
    /// The circuit moved bytes. Called at most once for each poll of the circuit.
    fn transferred(&self, to_target: u64, to_source: u64) {
        let _ = (to_target, to_source);
    }

    /// The circuit has ended, and its slot is free.
    fn closed(self: Box<Self>, closed: &ClosedCircuit) {
        let _ = closed;
    }
}

impl Observer for () {}
impl RequestObserver for () {}
impl StopObserver for () {}
impl CircuitObserver for () {}

/// One side of a circuit: a peer, and the transport of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The authenticated peer id.
    pub peer: PeerId,
    /// The transport of its connection.
    pub transport: Transport,
}

impl From<&Connection> for Leg {
    fn from(connection: &Connection) -> Self {
        Self {
            peer: connection.peer,
            transport: connection.transport,
        }
    }
}

/// Result of all attempts to open a circuit on the connections of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedStop {
    /// Number of connections that were tried.
    pub attempts: usize,
    /// Transport of the connection that was accepted, or else that was tried last.
    pub transport: Option<Transport>,
    /// The result.
    pub outcome: StopOutcome,
}

/// A circuit that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedCircuit {
    /// The peer that requested the circuit.
    pub source: PeerId,
    /// The peer that accepted it.
    pub target: PeerId,
    /// Relayed bytes, and why the circuit ended.
    pub outcome: Outcome,
    /// How long the circuit was open.
    pub duration: Duration,
}

/// Polls `request` in the scope of its observer.
pub(super) async fn in_scope<T>(
    observer: &dyn RequestObserver,
    mut request: Pin<&mut impl Future<Output = T>>,
) -> T {
    poll_fn(|cx| {
        let mut result = Poll::Pending;
        observer.in_scope(&mut || {
            if result.is_pending() {
                result = request.as_mut().poll(cx);
            }
        });
        result
    })
    .await
}
