//! The guards that keep the books exact: each takes back what it stands for when it is dropped, so
//! the books are right however a task or a connection ends.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use libp2p::PeerId;

use super::{
    connection::Connection,
    events::{self, Closed},
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
        let peer = self.connection.peer;
        let ended = self.relay.ledger().disconnected(peer, self.connection.id);
        if ended {
            events::reservation_ended(self.relay.names(), peer, "closed");
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

    /// How long the reservation lives from now on.
    pub(super) fn ttl(&self) -> Duration {
        self.grant.expires.saturating_duration_since(now())
    }

    /// When the reservation ends, in seconds since the Unix epoch. Rounded down: the relay never
    /// promises more than it keeps.
    pub(super) fn expire(&self) -> u64 {
        let end = SystemTime::now() + self.ttl();
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
        if !self.kept && self.relay.ledger().revoke(self.peer, &self.grant) {
            events::reservation_ended(self.relay.names(), self.peer, "closed");
        }
    }
}

/// A circuit's slot, free again when this is dropped.
#[derive(Debug)]
pub(super) struct CircuitPermit {
    relay: Arc<Relay>,
    source: PeerId,
    target: PeerId,
    /// The connections that it runs over.
    legs: [Option<Arc<Connection>>; 2],
}

impl CircuitPermit {
    /// The circuit is entered, and begins on `connection`.
    pub(super) fn new(relay: Arc<Relay>, connection: &Arc<Connection>, target: PeerId) -> Self {
        connection.circuit_begins();
        let legs = [Some(Arc::clone(connection)), None];
        Self {
            relay,
            source: connection.peer,
            target,
            legs,
        }
    }

    /// The circuit runs over this connection of the target.
    pub(super) fn reaches(&mut self, connection: Arc<Connection>) {
        connection.circuit_begins();
        self.legs[1] = Some(connection);
    }

    /// Reports how the circuit ended, and frees the slot.
    pub(super) fn close(self, closed: &Closed) {
        let relay = &self.relay;
        relay.count_end(closed.outcome.end);
        events::circuit_closed(relay.names(), self.source, self.target, closed);
    }
}

impl Drop for CircuitPermit {
    fn drop(&mut self) {
        for connection in self.legs.iter().flatten() {
            connection.circuit_ends();
        }
        self.relay.ledger().disconnect(self.source, self.target);
        self.relay.notify_circuit_ended();
    }
}
