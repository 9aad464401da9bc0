//! Who is connected, who holds a reservation, who has circuits open: the relay's only books.
//!
//! Pure and synchronous: no I/O, no clock (time is passed in), no logging. Every operation costs
//! the same whatever the number of reservations and circuits; what it does cost grows only with
//! the number of connections of the one peer that it is about.
//!
//! A reservation belongs to a **peer**. It ends when it expires or when the peer's last direct
//! connection goes. The connections on which the peer asked for it *hold* it: they are kept open
//! and tried first when a circuit is to reach the peer. When the last of them goes while others
//! are up, the newest of those holds it from then on.

mod circuits;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hashlink::LinkedHashMap;
use libp2p::{PeerId, swarm::ConnectionId};

use self::circuits::{CircuitPeers, CircuitTable, CircuitTableLimits};
use super::{circuit_state::CircuitState, deny_reason::DenyReason, limits::Limits};
use crate::{
    resources::{Exceeded, Prefix, Usage},
    shrink::Shrink as _,
};

/// A renewal that follows the last grant sooner repeats that grant. Less for reservations whose time
/// to live is below ten times this.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_secs(5);

/// What the ledger needs of a connection.
pub trait Connection: Clone {
    /// Identifies it among all connections of the process.
    fn id(&self) -> ConnectionId;
    /// Told when the connection starts (`true`) or stops (`false`) to hold its peer's reservation.
    fn set_holds_reservation(&self, holds: bool);
}

/// A granted reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How long ago the one was granted that this one renews; nothing if there was none.
    pub renews_after: Option<Duration>,
    /// When it ends unless it is renewed.
    pub expires: Instant,
    /// Tells this grant from every other one, for [`Ledger::revoke`].
    serial: u64,
}

/// A reservation that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedReservation {
    /// Who held it.
    pub peer: PeerId,
    /// When it was granted first.
    pub since: Instant,
}

/// What a peer has here at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Whether it holds a reservation.
    pub reservation: bool,
    /// Circuits that are open or being opened, from it or to it.
    pub circuits: usize,
    /// Its direct connections.
    pub connections: usize,
}

/// The books. See the module's documentation.
#[derive(Debug)]
pub struct Ledger<C> {
    limits: Limits,
    peers: HashMap<PeerId, Peer<C>>,
    /// In the order in which they expire: the time to live is the same for all, so a renewed
    /// reservation goes to the end. Only a drain breaks the order, by ending renewals with itself;
    /// those then wait for the end of the process.
    reservations: LinkedHashMap<PeerId, Reservation>,
    /// How many reservations each address prefix has.
    reservation_usage: Usage,
    circuits: CircuitTable,
    serial: u64,
    /// Set while the relay drains: no reservation lives longer.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Peer<C> {
    /// From the oldest to the newest.
    connections: Vec<C>,
    /// Circuits that it has opened, and circuits that lead to it.
    as_source: usize,
    as_target: usize,
}

#[derive(Debug)]
struct Reservation {
    /// When it was granted first.
    since: Instant,
    /// When it was renewed last, or else granted.
    granted: Instant,
    expires: Instant,
    ip: Option<IpAddr>,
    /// From the one that asked first to the one that asked last.
    reserving: Vec<ConnectionId>,
    serial: u64,
}

impl<C: Connection> Ledger<C> {
    /// Empty books under `limits`.
    pub fn new(limits: Limits) -> Self {
        let circuits = CircuitTable::new(CircuitTableLimits {
            total: limits.circuits,
            per_target: limits.circuits_per_target,
            shares: limits.prefix_shares.clone(),
        });
        Self {
            limits,
            peers: HashMap::new(),
            reservations: LinkedHashMap::new(),
            reservation_usage: Usage::default(),
            circuits,
            serial: 0,
            deadline: None,
        }
    }

    /// Peers that hold a reservation. One that has expired counts until [`Self::expire`].
    pub fn reservations(&self) -> usize {
        self.reservations.len()
    }

    /// Circuits that are open or being opened.
    pub fn circuits(&self) -> usize {
        self.circuits.len()
    }

    /// How many reservations the address prefixes use.
    pub fn reservation_usage(&self) -> &Usage {
        &self.reservation_usage
    }

    /// How many circuits the address prefixes of sources use.
    pub fn circuit_usage(&self) -> &Usage {
        self.circuits.sources()
    }

    /// Peers that are connected or have a circuit open.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// A direct connection of `peer` is up.
    pub fn connected(&mut self, peer: PeerId, connection: C) {
        self.peer(peer).connections.push(connection);
    }

    /// A direct connection of `peer` is gone. Gives the peer's reservation if it went with it.
    pub fn disconnected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
    ) -> Option<EndedReservation> {
        let entry = self.peers.get_mut(&peer)?;
        entry.connections.retain(|c| c.id() != connection);
        let Some(newest) = entry.connections.last() else {
            self.forget_if_idle(peer);
            return self.remove_reservation(peer);
        };
        if let Some(reservation) = self.reservations.get_mut(&peer) {
            reservation.reserving.retain(|id| *id != connection);
            if reservation.reserving.is_empty() {
                reservation.reserving.push(newest.id());
                newest.set_holds_reservation(true);
            }
        }
        None
    }

    /// Reserves a slot for `peer`, or renews the one that it has.
    ///
    /// A renewal is never refused. Call [`Self::expire`] first, so that slots which are due are
    /// free.
    ///
    /// # Errors
    /// Says which limit is reached, and changes nothing.
    pub fn reserve(
        &mut self,
        now: Instant,
        peer: PeerId,
        connection: ConnectionId,
        ip: Option<IpAddr>,
    ) -> Result<Grant, DenyReason> {
        let Some(entry) = self.peers.get(&peer) else {
            return Err(DenyReason::Disconnected);
        };
        let Some(current) = entry.connections.iter().find(|c| c.id() == connection) else {
            return Err(DenyReason::Disconnected);
        };
        if !self.reservations.contains_key(&peer) {
            self.has_room_for(ip)?;
        }
        let expires = now + self.limits.reservation_ttl;
        let expires = self
            .deadline
            .map_or(expires, |deadline| deadline.min(expires));
        self.serial += 1;

        let old = self.reservations.remove(&peer);
        let (mut since, mut reserving, mut renews_after) = (now, Vec::new(), None);
        let mut ip = ip;
        if let Some(old) = old {
            since = old.since;
            self.reservation_usage.remove(old.ip);
            // A reservation that moves to an address which has all that it may have still counts for
            // the former address: otherwise an address could be filled by moving there.
            if old.ip.map(Prefix::host) != ip.map(Prefix::host) && self.check_address(ip).is_err() {
                ip = old.ip;
            }
            renews_after = Some(now.saturating_duration_since(old.granted));
            reserving = old.reserving;
            reserving.retain(|id| *id != connection);
        }
        reserving.push(connection);
        current.set_holds_reservation(true);
        if self
            .limits
            .reservations_per_peer
            .is_some_and(|max| reserving.len() > max)
        {
            let oldest = reserving.remove(0);
            if let Some(oldest) = entry.connections.iter().find(|c| c.id() == oldest) {
                oldest.set_holds_reservation(false);
            }
        }
        self.reservation_usage.add(ip);
        let serial = self.serial;
        self.reservations.insert(
            peer,
            Reservation {
                since,
                granted: now,
                expires,
                ip,
                reserving,
                serial,
            },
        );
        Ok(Grant {
            renews_after,
            expires,
            serial,
        })
    }

    /// The grant that an early renewal on `connection` repeats: that of the last renewal, if it is
    /// recent and the connection already holds the reservation. It is not moved to a later expiry.
    ///
    /// Not while the relay drains: each renewal then has to end with the drain.
    pub fn repeat(
        &mut self,
        now: Instant,
        peer: PeerId,
        connection: ConnectionId,
    ) -> Option<Grant> {
        if self.deadline.is_some() {
            return None;
        }
        let recent = MIN_RENEWAL_INTERVAL.min(self.limits.reservation_ttl / 10);
        let reservation = self.reservations.get(&peer)?;
        let age = now.saturating_duration_since(reservation.granted);
        if age >= recent || !reservation.reserving.contains(&connection) {
            return None;
        }
        self.existing(now, peer)
    }

    /// The grant that `peer` has, if it has not expired. It is not moved to a later expiry.
    pub fn existing(&mut self, now: Instant, peer: PeerId) -> Option<Grant> {
        let reservation = self.reservations.get_mut(&peer)?;
        let age = now.saturating_duration_since(reservation.granted);
        if reservation.expires <= now {
            return None;
        }
        // The peer has an answer from now on, even if the first one does not reach it.
        self.serial += 1;
        reservation.serial = self.serial;
        Some(Grant {
            renews_after: Some(age),
            expires: reservation.expires,
            serial: self.serial,
        })
    }

    fn has_room_for(&self, ip: Option<IpAddr>) -> Result<(), DenyReason> {
        if self.deadline.is_some() {
            return Err(DenyReason::Draining);
        }
        if self
            .limits
            .reservations
            .is_some_and(|max| self.reservations.len() >= max)
        {
            return Err(DenyReason::Reservations);
        }
        self.check_address(ip)
    }

    /// Whether there may be one more reservation from `ip`.
    fn check_address(&self, ip: Option<IpAddr>) -> Result<(), DenyReason> {
        let held = ip.map_or(0, |ip| self.reservation_usage.of(Prefix::host(ip)));
        let is_full = |max| held >= max as u64;
        if ip.is_some() && self.limits.reservations_per_ip.is_some_and(is_full) {
            return Err(DenyReason::ReservationsPerIp);
        }
        let capacity = self.limits.reservations.map(|max| max as u64);
        let shares = &self.limits.prefix_shares;
        match self.reservation_usage.check(ip, capacity, shares) {
            Err(Exceeded::Share) => Err(DenyReason::ReservationShare),
            Err(Exceeded::Capacity) | Ok(()) => Ok(()),
        }
    }

    /// Takes back a grant whose answer never reached the peer. A renewal stays: what was promised
    /// before is not shortened. Nothing happens when the reservation was renewed or ended since.
    /// Gives the reservation if it is gone with it.
    pub fn revoke(&mut self, peer: PeerId, grant: &Grant) -> Option<EndedReservation> {
        let current = self.reservations.get(&peer)?.serial == grant.serial;
        (current && grant.renews_after.is_none()).then(|| self.remove_reservation(peer))?
    }

    /// Ends one reservation that is due at `now`. Call until `None`.
    pub fn expire(&mut self, now: Instant) -> Option<EndedReservation> {
        let (&peer, _) = self
            .reservations
            .front()
            .filter(|(_, r)| r.expires <= now)?;
        self.remove_reservation(peer)
    }

    /// When the next reservation is due.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.reservations
            .front()
            .map(|(_, reservation)| reservation.expires)
    }

    /// Opens a circuit from `source`, which is connected from `source_ip`, and gives its number and
    /// the target's connections in the order in which to try them: those that hold the
    /// reservation, then its other ones, the newest of each first. An unused circuit may give way to
    /// it; the state of that one says so.
    ///
    /// # Errors
    /// Says what is missing or which limit is reached, and changes nothing.
    pub fn connect(
        &mut self,
        now: Instant,
        (source, source_ip): (PeerId, Option<IpAddr>),
        target: PeerId,
        state: &Arc<CircuitState>,
    ) -> Result<(u64, Vec<C>), DenyReason> {
        if source == target {
            return Err(DenyReason::ConnectToSelf);
        }
        let reservation = self.reservations.get(&target);
        let reservation = reservation.filter(|reservation| reservation.expires > now);
        let (Some(reservation), Some(entry)) = (reservation, self.peers.get(&target)) else {
            return Err(DenyReason::NoReservation);
        };
        let as_source = self.peers.get(&source).map_or(0, |peer| peer.as_source);
        let is_full = |max| as_source >= max;
        if self.limits.circuits_per_source.is_some_and(is_full) {
            return Err(DenyReason::SourceCircuits);
        }
        let ends = CircuitPeers {
            source,
            source_ip,
            target,
            target_ip: reservation.ip,
        };
        let (number, evicted) = self.circuits.open(ends, entry.as_target, state)?;
        let connection = |id: &ConnectionId| entry.connections.iter().find(|c| c.id() == *id);
        let reserving = reservation.reserving.iter().rev().filter_map(connection);
        let others = entry
            .connections
            .iter()
            .rev()
            .filter(|c| !reservation.reserving.contains(&c.id()));
        let connections = reserving.chain(others).cloned().collect();

        self.peer(source).as_source += 1;
        self.peer(target).as_target += 1;
        if let Some(evicted) = evicted {
            self.count_closed(&evicted);
        }
        Ok((number, connections))
    }

    /// Closes the circuit that [`Self::connect`] opened under this number, unless it gave way to
    /// another one meanwhile.
    pub fn disconnect(&mut self, number: u64) {
        if let Some(ends) = self.circuits.close(number) {
            self.count_closed(&ends);
        }
    }

    /// A circuit between these peers is closed.
    fn count_closed(&mut self, &CircuitPeers { source, target, .. }: &CircuitPeers) {
        if let Some(entry) = self.peers.get_mut(&source) {
            entry.as_source = entry.as_source.saturating_sub(1);
        }
        if let Some(entry) = self.peers.get_mut(&target) {
            entry.as_target = entry.as_target.saturating_sub(1);
        }
        self.forget_if_idle(source);
        self.forget_if_idle(target);
    }

    /// From now on only holders may reserve, and what they are granted ends at `deadline`.
    pub fn drain(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// Every direct connection, in no order.
    pub fn connections(&self) -> impl Iterator<Item = &C> {
        self.peers.values().flat_map(|entry| &entry.connections)
    }

    /// How many direct connections `peer` has.
    pub fn connections_of(&self, peer: &PeerId) -> usize {
        self.peers
            .get(peer)
            .map_or(0, |entry| entry.connections.len())
    }

    /// What `peer` has here.
    pub fn peer_state(&self, peer: &PeerId) -> PeerState {
        let entry = self.peers.get(peer);
        PeerState {
            reservation: self.reservations.contains_key(peer),
            circuits: entry.map_or(0, |entry| entry.as_source + entry.as_target),
            connections: entry.map_or(0, |entry| entry.connections.len()),
        }
    }

    /// Whether a direct connection of `peer` satisfies `predicate`.
    pub fn any_connection(&self, peer: &PeerId, predicate: impl Fn(&C) -> bool) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|entry| entry.connections.iter().any(predicate))
    }

    /// Whether `peer` holds a reservation that has not expired.
    pub fn is_reserved(&self, peer: &PeerId, now: Instant) -> bool {
        self.live_reservation(peer, now).is_some()
    }

    fn live_reservation(&self, peer: &PeerId, now: Instant) -> Option<&Reservation> {
        self.reservations.get(peer).filter(|r| r.expires > now)
    }

    fn peer(&mut self, peer: PeerId) -> &mut Peer<C> {
        self.peers.entry(peer).or_insert_with(|| Peer {
            connections: Vec::new(),
            as_source: 0,
            as_target: 0,
        })
    }

    fn forget_if_idle(&mut self, peer: PeerId) {
        if self
            .peers
            .get(&peer)
            .is_some_and(|p| p.connections.is_empty() && p.as_source + p.as_target == 0)
        {
            self.peers.remove(&peer);
            self.peers.shrink_when_sparse();
        }
    }

    fn remove_reservation(&mut self, peer: PeerId) -> Option<EndedReservation> {
        let reservation = self.reservations.remove(&peer)?;
        self.reservations.shrink_when_sparse();
        self.reservation_usage.remove(reservation.ip);
        for connection in self
            .peers
            .get(&peer)
            .iter()
            .flat_map(|entry| &entry.connections)
        {
            connection.set_holds_reservation(false);
        }
        Some(EndedReservation {
            peer,
            since: reservation.since,
        })
    }
}

#[cfg(test)]
mod tests;
