//! RAII guards that keep the reservation table exact: each one undoes its entry when it is dropped,
//! however a task or a connection ends.

use std::{sync::Arc, time::SystemTime};

use libp2p::PeerId;

use super::{
    circuit_state::CircuitState,
    connection::Connection,
    events::{self, ClosedCircuit},
    ledger::{Grant, ReservationEnd},
    service::{Relay, now},
};

/// Keeps a connection registered.
#[derive(Debug)]
pub(super) struct Registration {
    relay: Arc<Relay>,
    connection: Arc<Connection>,
}

impl Registration {
    /// Wraps a connection that is in the table.
    pub(super) fn new(relay: Arc<Relay>, connection: Arc<Connection>) -> Self {
        Self { relay, connection }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connection.closed().cancel();
        let peer = self.connection.peer;
        let ended = self.relay.ledger().disconnected(peer, self.connection.id);
        if let Some(ended) = ended {
            events::reservation_ended(&self.relay, ended, ReservationEnd::Closed, "disconnected");
        }
    }
}

/// A granted reservation whose answer has not been delivered yet.
#[derive(Debug)]
pub(super) struct ReservationGuard {
    relay: Arc<Relay>,
    peer: PeerId,
    grant: Grant,
    kept: bool,
}

impl ReservationGuard {
    /// Guards `grant`, which is revoked unless [`Self::keep`] is called.
    pub(super) fn new(relay: Arc<Relay>, peer: PeerId, grant: Grant) -> Self {
        Self {
            relay,
            peer,
            grant,
            kept: false,
        }
    }

    /// Expiry of the reservation, in seconds since the Unix epoch. Rounded down, so that the
    /// reservation lasts at least as long as announced.
    pub(super) fn expire(&self) -> u64 {
        let end = SystemTime::now() + self.grant.expires.saturating_duration_since(now());
        end.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_secs())
    }

    /// Keeps the reservation: the peer has received its answer.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for ReservationGuard {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let ended = self.relay.ledger().revoke(self.peer, &self.grant);
        if let Some(ended) = ended {
            events::reservation_ended(&self.relay, ended, ReservationEnd::Closed, "not delivered");
        }
    }
}

/// Marks a connection as used by a circuit that is open or being opened.
#[derive(Debug)]
pub(super) struct CircuitLeg(Arc<Connection>);

impl CircuitLeg {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        connection.circuit_started();
        Self(connection)
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for CircuitLeg {
    fn drop(&mut self) {
        self.0.circuit_stopped();
    }
}

/// The slot of a circuit. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct CircuitPermit {
    relay: Arc<Relay>,
    source: PeerId,
    target: PeerId,
    /// Number of the circuit in the table.
    number: u64,
    state: Arc<CircuitState>,
    /// Connections of the source and of the target. The second one is `None` until the target has
    /// accepted.
    legs: (Option<CircuitLeg>, Option<CircuitLeg>),
}

impl CircuitPermit {
    /// Guards a circuit that is in the table and starts on `connection`.
    pub(super) fn new(
        relay: Arc<Relay>,
        connection: &Arc<Connection>,
        target: PeerId,
        number: u64,
        state: Arc<CircuitState>,
    ) -> Self {
        let source = CircuitLeg::new(Arc::clone(connection));
        Self {
            relay,
            source: connection.peer,
            target,
            number,
            state,
            legs: (Some(source), None),
        }
    }

    /// The state that the circuit shares with the table.
    pub(super) fn state(&self) -> &Arc<CircuitState> {
        &self.state
    }

    /// Sets the connection that leads to the target.
    pub(super) fn set_target(&mut self, target: CircuitLeg) {
        self.legs.1 = Some(target);
    }

    /// Frees the slot, and reports the end of the circuit.
    pub(super) fn close(self, closed: &ClosedCircuit) {
        let relay = Arc::clone(&self.relay);
        let (source, target) = (self.source, self.target);
        drop(self);
        events::circuit_closed(&relay, source, target, closed);
        relay.count_ended(closed.outcome.end);
    }
}

impl Drop for CircuitPermit {
    fn drop(&mut self) {
        // Before waiters are notified.
        self.legs = (None, None);
        self.relay.ledger().disconnect(self.number);
        self.relay.notify_circuit_ended();
    }
}
