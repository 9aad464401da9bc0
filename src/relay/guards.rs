//! The guards that keep the books exact: each takes back what it stands for when it is dropped, so
//! the books are right however a task or a connection ends.

use std::{sync::Arc, time::SystemTime};

use libp2p::PeerId;

use super::{
    circuit_state::CircuitState,
    connection::Connection,
    events::{self, ClosedCircuit},
    ledger::Grant,
    service::{Relay, now},
};

/// A connection is in the books for as long as this lives.
#[derive(Debug)]
pub(super) struct Registration {
    relay: Arc<Relay>,
    connection: Arc<Connection>,
}

impl Registration {
    /// The connection has been entered.
    pub(super) fn new(relay: Arc<Relay>, connection: Arc<Connection>) -> Self {
        Self { relay, connection }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connection.gone().cancel();
        let peer = self.connection.peer;
        let ended = self.relay.ledger().disconnected(peer, self.connection.id);
        if let Some(ended) = ended {
            events::reservation_ended(&self.relay, ended, "closed");
        }
    }
}

/// A reservation whose answer is on its way to the peer.
#[derive(Debug)]
pub(super) struct ReservationGuard {
    relay: Arc<Relay>,
    peer: PeerId,
    grant: Grant,
    kept: bool,
}

impl ReservationGuard {
    /// `grant` is entered, and is taken back unless it is kept.
    pub(super) fn new(relay: Arc<Relay>, peer: PeerId, grant: Grant) -> Self {
        Self {
            relay,
            peer,
            grant,
            kept: false,
        }
    }

    /// When the reservation ends, in seconds since the Unix epoch. Rounded down: the relay never
    /// promises more than it keeps.
    pub(super) fn expire(&self) -> u64 {
        let end = SystemTime::now() + self.grant.expires.saturating_duration_since(now());
        end.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_secs())
    }

    /// The peer has its answer.
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
            events::reservation_ended(&self.relay, ended, "closed");
        }
    }
}

/// A connection carries a circuit, or is asked to, for as long as this lives.
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

/// A circuit's slot, free again when this is dropped.
#[derive(Debug)]
pub(super) struct CircuitPermit {
    relay: Arc<Relay>,
    source: PeerId,
    target: PeerId,
    /// Its number in the table.
    number: u64,
    state: Arc<CircuitState>,
    /// Where it begins, and where it leads. Always there until this is dropped, but for the second
    /// one while the target is asked.
    legs: (Option<CircuitLeg>, Option<CircuitLeg>),
}

impl CircuitPermit {
    /// The circuit is entered, and begins on `connection`.
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

    /// Whether the circuit is used, and what evicts it.
    pub(super) fn state(&self) -> &Arc<CircuitState> {
        &self.state
    }

    /// The circuit leads over this connection of the target.
    pub(super) fn set_target(&mut self, target: CircuitLeg) {
        self.legs.1 = Some(target);
    }

    /// Frees the slot, and reports how the circuit ended.
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
        // Before anybody is told.
        self.legs = (None, None);
        self.relay.ledger().disconnect(self.number);
        self.relay.notify_circuit_ended();
    }
}
