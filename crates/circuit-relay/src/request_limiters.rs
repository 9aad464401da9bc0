//! Rate limits of requests, per peer and per IP address.

use libp2p::PeerId;
use rate_limits::Limiter;
use resource_manager::Prefix;

use super::{
    connection::Connection,
    deny_reason::DenyReason,
    limits::{Limits, RequestRateLimits},
};

/// Rate limits of reservation and circuit requests.
#[derive(Debug)]
pub(super) struct RequestLimiters {
    reservations: RequestLimiter,
    circuits: RequestLimiter,
}

impl RequestLimiters {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            reservations: RequestLimiter::new(limits.reservation_rate),
            circuits: RequestLimiter::new(limits.circuit_rate),
        }
    }

    /// Whether reservation requests are limited at all.
    pub(super) fn limits_reservations(&self) -> bool {
        self.reservations.peers.is_some() || self.reservations.ips.is_some()
    }

    /// Counts a request for a new reservation. Renewals are not counted.
    ///
    /// # Errors
    /// The rate that is exceeded.
    pub(super) fn reserve(&self, connection: &Connection) -> Result<(), DenyReason> {
        self.reservations.check(
            connection,
            DenyReason::ReservationRatePerPeer,
            DenyReason::ReservationRatePerIp,
        )
    }

    /// Counts a request for a circuit.
    ///
    /// # Errors
    /// The rate that is exceeded.
    pub(super) fn connect(&self, connection: &Connection) -> Result<(), DenyReason> {
        self.circuits.check(
            connection,
            DenyReason::CircuitRatePerPeer,
            DenyReason::CircuitRatePerIp,
        )
    }
}

/// Rate limits of one kind of request.
#[derive(Debug)]
struct RequestLimiter {
    peers: Option<Limiter<PeerId>>,
    ips: Option<Limiter<Prefix>>,
}

impl RequestLimiter {
    fn new(rate: RequestRateLimits) -> Self {
        Self {
            peers: rate.per_peer.map(Limiter::new),
            ips: rate.per_ip.map(Limiter::new),
        }
    }

    /// Checks the peer first: a peer that exceeds its own rate uses nothing of its IP address's
    /// rate.
    fn check(&self, from: &Connection, peer: DenyReason, ip: DenyReason) -> Result<(), DenyReason> {
        if self.peers.as_ref().is_some_and(|p| !p.allows(&from.peer)) {
            return Err(peer);
        }
        let (Some(ips), Some(address)) = (&self.ips, from.ip) else {
            return Ok(());
        };
        if ips.allows(&Prefix::host(address)) {
            Ok(())
        } else {
            Err(ip)
        }
    }
}
