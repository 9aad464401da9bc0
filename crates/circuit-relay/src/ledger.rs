//! The reservation table: connections, reservations and circuits of all peers.
//!
//! Synchronous: no I/O, no clock (time is passed in), no logging. Outside of the table, it only marks
//! connections that hold a reservation and circuits that are evicted. The cost of an operation does
//! not depend on the number of reservations. It depends on the number of connections of the peer
//! concerned and, for a circuit to a target that has another one, or at a limit, on the number of
//! circuits.
//!
//! A reservation belongs to a **peer**. It ends when it expires or when the peer's last direct
//! connection is closed. The connections on which the peer reserved *hold* the reservation: they
//! are kept alive. For circuits to the peer, they are preferred to other connections that were active
//! at the same time. When the last of them is closed while the peer has other connections, the newest
//! of these holds the reservation.

mod circuits;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hashlink::LinkedHashMap;
use libp2p::{PeerId, swarm::ConnectionId};
use named_enum::named_enum;
use resource_manager::map_shrink::ShrinkIfSparse as _;
use resource_manager::{Exceeded, Prefix, Usage};

use self::circuits::{CircuitPeers, CircuitTable, CircuitTableLimits};
use super::{circuit_state::CircuitState, deny_reason::DenyReason, limits::Limits};

/// A renewal within this time after the last grant repeats that grant. For short reservations the
/// interval is a tenth of their time to live.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_secs(5);

/// What the table requires of a connection.
pub trait Connection: Clone {
    /// Id of the connection, unique in the process.
    fn id(&self) -> ConnectionId;
    /// Whether further circuits may use the connection.
    fn accepts_circuits(&self) -> bool;
    /// Called when the connection starts (`true`) or stops (`false`) to hold its peer's
    /// reservation.
    fn set_holds_reservation(&self, holds: bool);
}

/// A granted reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Age of the grant that this one renews; `None` for a new reservation.
    pub renews_after: Option<Duration>,
    /// When the reservation expires unless it is renewed.
    pub expires: Instant,
    /// Identifies the grant for [`Ledger::revoke`].
    serial: u64,
}

/// A reservation that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedReservation {
    /// The peer that had the reservation.
    pub peer: PeerId,
    /// When it was first granted.
    pub since: Instant,
}

named_enum! {
    /// Why a reservation ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReservationEndCause {
        /// It was not renewed in time.
        NotRenewed = "not renewed",
        /// The peer's last direct connection was closed.
        Disconnected = "disconnected",
        /// The peer did not receive the grant.
        NotDelivered = "not delivered",
        /// The relay closed the connection because it drains.
        Draining = "draining",
    }
}

named_enum! {
    /// How a reservation ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReservationEnd {
        /// It was not renewed in time.
        Expired = "expired",
        /// The peer's last direct connection was closed, or the grant could not be delivered.
        Closed = "closed",
    }
}

impl ReservationEndCause {
    /// How a reservation with this cause ended.
    pub const fn end(self) -> ReservationEnd {
        match self {
            Self::NotRenewed => ReservationEnd::Expired,
            Self::Disconnected | Self::NotDelivered | Self::Draining => ReservationEnd::Closed,
        }
    }
}

/// Current use of the relay by one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Whether the peer has a reservation.
    pub reservation: bool,
    /// Circuits from or to the peer that are open or being opened.
    pub circuits: usize,
    /// Direct connections of the peer.
    pub connections: usize,
}

/// The reservation table; see the module documentation.
#[derive(Debug)]
pub struct Ledger<C> {
    limits: Limits,
    peers: HashMap<PeerId, Peer<C>>,
    /// In order of expiry: the time to live is the same for all, so a renewed reservation moves to
    /// the end. Only a drain breaks the order, because it limits the expiry of renewals;
    /// reservations behind them then last until the process ends.
    reservations: LinkedHashMap<PeerId, Reservation>,
    /// Reservations of each address prefix.
    reservation_usage: Usage,
    circuits: CircuitTable,
    serial: u64,
    /// Set while the relay drains: the latest possible expiry.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Peer<C> {
    /// From the oldest to the newest.
    connections: Vec<C>,
    /// Circuits opened by the peer, and circuits to the peer.
    as_source: usize,
    as_target: usize,
}

#[derive(Debug)]
struct Reservation {
    /// When the reservation was first granted.
    since: Instant,
    /// When the reservation was last granted or renewed.
    granted: Instant,
    expires: Instant,
    ip: Option<IpAddr>,
    /// Connections that hold the reservation, in the order of the requests.
    reserving: Vec<ConnectionId>,
    serial: u64,
}

impl<C: Connection> Ledger<C> {
    /// Creates an empty table with these limits.
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

    /// Number of reservations. Expired ones count until [`Self::expire`] removes them.
    pub fn reservations(&self) -> usize {
        self.reservations.len()
    }

    /// Number of circuits that are open or being opened.
    pub fn circuits(&self) -> usize {
        self.circuits.len()
    }

    /// Reservations of each address prefix.
    pub fn reservation_usage(&self) -> &Usage {
        &self.reservation_usage
    }

    /// Circuits of each address prefix of sources.
    pub fn circuit_usage(&self) -> &Usage {
        self.circuits.sources()
    }

    /// Number of peers that are connected or have a circuit.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Adds a direct connection of `peer`.
    pub fn connected(&mut self, peer: PeerId, connection: C) {
        self.peer(peer).connections.push(connection);
    }

    /// Removes a direct connection of `peer`. Returns the peer's reservation if it ended with it.
    pub fn disconnected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
    ) -> Option<EndedReservation> {
        let entry = self.peers.get_mut(&peer)?;
        entry.connections.retain(|c| c.id() != connection);
        let Some(newest) = entry.connections.last() else {
            self.remove_if_unused(peer);
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

    /// Grants `peer` a reservation, or renews the existing one.
    ///
    /// A renewal is never refused. Call [`Self::expire`] before, so that expired reservations free
    /// their slots.
    ///
    /// # Errors
    /// The limit that is reached. The table is unchanged.
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
            self.check_capacity(ip)?;
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
            // A reservation that moves to an address which is at its limit still counts for the
            // former address. Otherwise reservations could be moved into an address beyond its
            // limit.
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

    /// The grant that an early renewal on `connection` repeats: the latest one, if it is recent and
    /// the connection holds the reservation. Its expiry is unchanged.
    ///
    /// `None` while the relay drains, because every renewal then ends with the drain.
    pub fn recent_grant(
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
        self.existing_grant(now, peer)
    }

    /// The unexpired grant of `peer`. Its expiry is unchanged.
    pub fn existing_grant(&mut self, now: Instant, peer: PeerId) -> Option<Grant> {
        let reservation = self.reservations.get_mut(&peer)?;
        let age = now.saturating_duration_since(reservation.granted);
        if reservation.expires <= now {
            return None;
        }
        // A new serial, so that revoking the earlier grant does not end the reservation.
        self.serial += 1;
        reservation.serial = self.serial;
        Some(Grant {
            renews_after: Some(age),
            expires: reservation.expires,
            serial: self.serial,
        })
    }

    fn check_capacity(&self, ip: Option<IpAddr>) -> Result<(), DenyReason> {
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

    /// Checks whether `ip` may have one more reservation.
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

    /// Revokes a grant whose answer was not delivered. A renewal is not revoked, because its
    /// reservation existed before, and neither is a grant that has been renewed or has ended since.
    /// Returns the reservation if it ended.
    pub fn revoke(&mut self, peer: PeerId, grant: &Grant) -> Option<EndedReservation> {
        let current = self.reservations.get(&peer)?.serial == grant.serial;
        (current && grant.renews_after.is_none()).then(|| self.remove_reservation(peer))?
    }

    /// Ends one reservation that has expired at `now`. Call it until it returns `None`.
    pub fn expire(&mut self, now: Instant) -> Option<EndedReservation> {
        let (&peer, _) = self
            .reservations
            .front()
            .filter(|(_, r)| r.expires <= now)?;
        self.remove_reservation(peer)
    }

    /// When the next reservation expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.reservations
            .front()
            .map(|(_, reservation)| reservation.expires)
    }

    /// Opens a circuit from `source`, which is connected from `source_ip`. Returns the circuit's
    /// number and the target's connections that accept circuits: those that hold the reservation,
    /// then the others, the newest of each first. The caller sorts them by activity, so this order
    /// decides between equally recent ones. If an unused circuit is evicted for it, that circuit's
    /// state is marked.
    ///
    /// # Errors
    /// The limit that is reached, or what is missing. The table is unchanged.
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
        let connection = |id: &ConnectionId| entry.connections.iter().find(|c| c.id() == *id);
        let reserving = reservation.reserving.iter().rev().filter_map(connection);
        let others = entry
            .connections
            .iter()
            .rev()
            .filter(|c| !reservation.reserving.contains(&c.id()));
        let accepting = reserving.chain(others).filter(|c| c.accepts_circuits());
        let connections: Vec<_> = accepting.cloned().collect();
        if connections.is_empty() {
            return Err(DenyReason::DrainClosing);
        }
        let (number, evicted) = self.circuits.open(ends, entry.as_target, state)?;

        self.peer(source).as_source += 1;
        self.peer(target).as_target += 1;
        if let Some(evicted) = evicted {
            self.count_closed(&evicted);
        }
        Ok((number, connections))
    }

    /// Closes the circuit of this number, unless it has been evicted.
    pub fn disconnect(&mut self, number: u64) {
        if let Some(ends) = self.circuits.close(number) {
            self.count_closed(&ends);
        }
    }

    /// Updates the counts of both peers of a closed circuit.
    fn count_closed(&mut self, &CircuitPeers { source, target, .. }: &CircuitPeers) {
        if let Some(entry) = self.peers.get_mut(&source) {
            entry.as_source = entry.as_source.saturating_sub(1);
        }
        if let Some(entry) = self.peers.get_mut(&target) {
            entry.as_target = entry.as_target.saturating_sub(1);
        }
        self.remove_if_unused(source);
        self.remove_if_unused(target);
    }

    /// Starts a drain: only renewals are granted, and no reservation lasts beyond `deadline`.
    pub fn drain(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// All direct connections, in no particular order.
    pub fn connections(&self) -> impl Iterator<Item = &C> {
        self.peers.values().flat_map(|entry| &entry.connections)
    }

    /// Number of direct connections of `peer`.
    pub fn connections_of(&self, peer: &PeerId) -> usize {
        self.peers
            .get(peer)
            .map_or(0, |entry| entry.connections.len())
    }

    /// Current use of the relay by `peer`.
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

    /// Whether `peer` has an unexpired reservation.
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

    fn remove_if_unused(&mut self, peer: PeerId) {
        if self
            .peers
            .get(&peer)
            .is_some_and(|p| p.connections.is_empty() && p.as_source + p.as_target == 0)
        {
            self.peers.remove(&peer);
            self.peers.shrink_if_sparse();
        }
    }

    fn remove_reservation(&mut self, peer: PeerId) -> Option<EndedReservation> {
        let reservation = self.reservations.remove(&peer)?;
        self.reservations.shrink_if_sparse();
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
