//! RAII guards that keep the reservation table exact: each one undoes its entry when it is dropped,
//! however a task or a connection ends.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use libp2p::PeerId;

use super::{
    circuit::Outcome,
    circuit_count::Opened,
    circuit_state::CircuitState,
    connection::Connection,
    deny_reason::DenyReason,
    ledger::{Grant, ReservationEndCause},
    observer::{CircuitObserver, ClosedCircuit},
    service::{Relay, now},
};

/// Keeps a connection registered.
#[derive(Debug)]
pub(super) struct Registration {
    relay: Arc<Relay>,
    connection: Arc<Connection>,
}

impl Registration {
    /// Registers a direct connection for as long as the guard lives. A relayed connection is not
    /// registered, because nothing is relayed over it.
    pub(super) fn new(relay: Arc<Relay>, connection: Arc<Connection>) -> Self {
        if !connection.is_relayed() {
            relay
                .ledger()
                .connected(connection.peer, Arc::clone(&connection));
        }
        Self { relay, connection }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connection.closed().cancel();
        let peer = self.connection.peer;
        let ended = self.relay.ledger().disconnected(peer, self.connection.id);
        if let Some(ended) = ended {
            self.relay
                .reservation_ended(ended, ReservationEndCause::Disconnected);
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
    /// Grants or renews a reservation. A new reservation is revoked unless [`Self::keep`] is called.
    ///
    /// # Errors
    /// If a limit denies it.
    pub(super) fn grant(relay: &Arc<Relay>, connection: &Connection) -> Result<Self, DenyReason> {
        let grant = relay.grant(connection)?;
        Ok(Self::new(relay, connection.peer, grant))
    }

    /// Repeats a [recent](Relay::recent_grant) or [existing](Relay::existing_grant) grant, without
    /// renewing it.
    pub(super) fn repeat(relay: &Arc<Relay>, connection: &Connection, grant: Grant) -> Self {
        relay.observer().reservation_repeated(connection.peer);
        Self::new(relay, connection.peer, grant)
    }

    fn new(relay: &Arc<Relay>, peer: PeerId, grant: Grant) -> Self {
        Self {
            relay: Arc::clone(relay),
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
            self.relay
                .reservation_ended(ended, ReservationEndCause::NotDelivered);
        }
    }
}

/// Marks a connection as used by a circuit that is open or being opened.
#[derive(Debug)]
pub struct CircuitLeg {
    connection: Arc<Connection>,
    opened: Opened,
}

impl CircuitLeg {
    /// Counts a circuit on `connection`, until the guard is dropped; `None` if a drain is about to
    /// close the connection.
    pub fn open(connection: &Arc<Connection>) -> Option<Self> {
        let opened = connection.open_circuit()?;
        let connection = Arc::clone(connection);
        Some(Self { connection, opened })
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for CircuitLeg {
    fn drop(&mut self) {
        self.connection.close_circuit(self.opened);
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
    /// Takes a slot for a circuit that starts on `connection`. Returns the target's connections in
    /// the order of preference.
    ///
    /// # Errors
    /// If the target has no reservation, a limit denies the circuit, or a drain is about to close
    /// the connection.
    pub(super) fn acquire(
        relay: &Arc<Relay>,
        connection: &Arc<Connection>,
        target: PeerId,
    ) -> Result<(Self, Vec<Arc<Connection>>), DenyReason> {
        let leg = CircuitLeg::open(connection).ok_or(DenyReason::DrainClosing)?;
        let state = Arc::new(CircuitState::default());
        let source = (connection.peer, connection.ip);
        let (number, connections) = relay.ledger().connect(now(), source, target, &state)?;
        let permit = Self {
            relay: Arc::clone(relay),
            source: connection.peer,
            target,
            number,
            state,
            legs: (Some(leg), None),
        };
        Ok((permit, connections))
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
    pub(super) fn close(
        self,
        observer: Box<dyn CircuitObserver>,
        outcome: Outcome,
        duration: Duration,
    ) {
        let relay = Arc::clone(&self.relay);
        let closed = ClosedCircuit {
            source: self.source,
            target: self.target,
            outcome,
            duration,
        };
        drop(self);
        observer.closed(&closed);
        relay.count_ended(outcome.end);
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
