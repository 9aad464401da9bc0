//! `AutoNAT` v2 server: dials peers back, so that they learn whether they are reachable.
//!
//! The relay dials for no other purpose. The server of libp2p dials any address in a request, which
//! would turn the relay into a network scanner. Three limits apply before anything is sent:
//!
//! - **Addresses.** Only IP addresses that the peer is connected from are dialled, and the
//!   transport dials no private address
//!   ([`DialScope::Global`](transports::DialScope::Global)), because behind a proxy clients
//!   appear to connect from one. The client address in the header of a trusted proxy
//!   ([`transports::proxy`](transports::proxy)) counts as the address of the connection.
//! - **Rates.** Many hosts may share an address behind a NAT, with ports that are not the peer's.
//!   Dials are therefore limited per address prefix (IPv4 /32, IPv6 /64), per peer and in total, in
//!   bounded memory ([`Limiter`]).
//! - **Simultaneous dials**, in `node::connection_limits`.
//!
//! # Answers to denied requests
//!
//! The server of libp2p has two answers for a dial that does not take place. `E_DIAL_ERROR` is
//! final: a rust client considers the address unreachable and does not request it again. It is the
//! answer for a foreign address, which later requests cannot change. `E_INTERNAL_ERROR` is
//! temporary: clients try again later or on another server. It is the answer when a limit is
//! reached. `E_REQUEST_REJECTED` would be more precise, but only code inside libp2p can send it.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    autonat::v2::server,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};
use tracing::debug;

use crate::{metrics::Metrics, relay::Relay};
use named_enum::named_enum;
use rate_limits::{Limiter, Rate, Unit};
use resource_manager::{Prefix, ip_of};

/// Dials to one address prefix. A client tests a few addresses when it starts (at most 10 at once
/// in rust-libp2p), and retests one after minutes. Scanning all 65,535 ports of an address takes a
/// week at this rate.
pub const RATE_PER_IP: Rate = Rate::fixed(10, 6, Unit::Minute);
/// Dials for one peer, to all of its addresses.
pub const RATE_PER_PEER: Rate = Rate::fixed(10, 6, Unit::Minute);
/// All dials. Reaching this rate takes 200 address prefixes with continuous requests, and a few
/// percent of a CPU core.
pub const RATE_TOTAL: Rate = Rate::fixed(200, 20, Unit::Second);

/// The `AutoNAT` v2 server of libp2p with these limits.
pub struct Behaviour {
    server: server::Behaviour,
    relay: Arc<Relay>,
    metrics: Metrics,
    /// Boxed, because the limiters are large and the behaviour is moved.
    limiters: Box<DialLimiters>,
}

struct DialLimiters {
    peers: Limiter<PeerId>,
    prefixes: Limiter<Prefix>,
    total: Limiter<()>,
}

named_enum! {
    /// Outcome of a requested dial.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum DialOutcome {
        /// The address was dialled.
        Dialled = "dialled",
        /// The peer is not connected from the IP address.
        ForeignAddress = "foreign_address",
        /// The peer exceeds its rate.
        RatePerPeer = "rate_per_peer",
        /// The address prefix exceeds its rate.
        RatePerIp = "rate_per_ip",
        /// The total rate is exceeded.
        RateTotal = "rate_total",
        /// Too many dials are pending.
        MaxDials = "max_dials",
    }
}

/// Why a dial was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialDenied {
    /// The peer is not connected from this IP address.
    #[error("only IP addresses that the peer is connected from are dialled")]
    ForeignAddress,
    /// The peer exceeds its rate.
    #[error("too many dials for the peer")]
    RatePerPeer,
    /// The address prefix exceeds its rate.
    #[error("too many dials to the address prefix")]
    RatePerIp,
    /// The total rate is exceeded.
    #[error("too many dials")]
    RateTotal,
}

impl DialDenied {
    fn outcome(self) -> DialOutcome {
        match self {
            Self::ForeignAddress => DialOutcome::ForeignAddress,
            Self::RatePerPeer => DialOutcome::RatePerPeer,
            Self::RatePerIp => DialOutcome::RatePerIp,
            Self::RateTotal => DialOutcome::RateTotal,
        }
    }
}

impl Behaviour {
    /// Creates a server for the peers that are connected to `relay`.
    pub fn new(relay: Arc<Relay>, metrics: Metrics) -> Self {
        Self {
            server: server::Behaviour::default(),
            relay,
            metrics,
            limiters: Box::new(DialLimiters {
                peers: Limiter::new(RATE_PER_PEER),
                prefixes: Limiter::new(RATE_PER_IP),
                total: Limiter::new(RATE_TOTAL),
            }),
        }
    }

    /// Checks whether `addresses` may be dialled for `peer` now, and counts the dial if so.
    fn check(&self, peer: Option<PeerId>, addresses: &[Multiaddr]) -> Result<(), DialDenied> {
        let peer = peer.ok_or(DialDenied::ForeignAddress)?;
        // The server of libp2p requests one address at a time.
        let [address] = addresses else {
            return Err(DialDenied::ForeignAddress);
        };
        // A DNS name is never dialled: it could resolve to any address.
        let ip = ip_of(address)
            .filter(|ip| self.relay.is_connected_from(&peer, *ip))
            .ok_or(DialDenied::ForeignAddress)?;
        self.limiters.check(peer, Prefix::host(ip))
    }

    /// Makes the server answer with `E_INTERNAL_ERROR`. The server does so when the handler of the
    /// dial-back connection is dropped before the dial-back, so this creates that handler and drops
    /// it.
    fn answer_internal_error(&mut self, connection_id: ConnectionId, peer: PeerId) {
        drop(self.server.handle_established_outbound_connection(
            connection_id,
            peer,
            &Multiaddr::empty(),
            Endpoint::Dialer,
            PortUse::New,
        ));
    }
}

impl DialLimiters {
    /// Checks the narrowest limit first: a denied dial uses nothing of the wider ones.
    fn check(&self, peer: PeerId, prefix: Prefix) -> Result<(), DialDenied> {
        if !self.peers.allows(&peer) {
            return Err(DialDenied::RatePerPeer);
        }
        if !self.prefixes.allows(&prefix) {
            return Err(DialDenied::RatePerIp);
        }
        if !self.total.allows(&()) {
            return Err(DialDenied::RateTotal);
        }
        Ok(())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<server::Behaviour>;
    type ToSwarm = server::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.server
            .handle_established_inbound_connection(connection_id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match self.check(peer, addresses) {
            Ok(()) => {
                self.metrics.autonat_dial(DialOutcome::Dialled.as_str());
                Ok(Vec::new())
            }
            Err(refused) => {
                let outcome = refused.outcome().as_str();
                debug!(reason = outcome, "AutoNAT dial refused");
                self.metrics.autonat_dial(outcome);
                Err(ConnectionDenied::new(refused))
            }
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.server.handle_established_outbound_connection(
            connection_id,
            peer,
            remote,
            role,
            port_use,
        )
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::DialFailure(DialFailure {
            peer_id: Some(peer),
            error: DialError::Denied { cause },
            connection_id,
        }) = event
        {
            let refused = cause.downcast_ref::<DialDenied>();
            if refused.is_none() {
                // Denied by `node::connection_limits`.
                self.metrics.autonat_dial(DialOutcome::MaxDials.as_str());
            }
            if refused != Some(&DialDenied::ForeignAddress) {
                return self.answer_internal_error(connection_id, peer);
            }
        }
        self.server.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection_id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.server
            .on_connection_handler_event(peer, connection_id, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.server.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn limiters() -> DialLimiters {
        DialLimiters {
            peers: Limiter::new(RATE_PER_PEER),
            prefixes: Limiter::new(RATE_PER_IP),
            total: Limiter::new(RATE_TOTAL),
        }
    }

    fn prefix(site: u16, host: u16) -> Prefix {
        Prefix::host(Ipv6Addr::new(0x2001, 0xdb8, site, 1, 0, 0, 0, host).into())
    }

    #[tokio::test(start_paused = true)]
    async fn dials_are_limited_per_peer_per_prefix_and_in_total() {
        let limiters = limiters();
        let peer = PeerId::random();
        let burst = RATE_PER_PEER.burst.get();
        // From any address.
        for number in 0..burst {
            let prefix = prefix(u16::try_from(number).unwrap(), 1);
            assert_eq!(limiters.check(peer, prefix), Ok(()));
        }
        let refused = Err(DialDenied::RatePerPeer);
        assert_eq!(limiters.check(peer, prefix(0, 1)), refused);
        // The denied dial used nothing of the rate of the prefix, which its hosts share.
        for host in 1..u16::try_from(RATE_PER_IP.burst.get()).unwrap() {
            assert_eq!(limiters.check(PeerId::random(), prefix(0, host)), Ok(()));
        }
        let refused = Err(DialDenied::RatePerIp);
        assert_eq!(limiters.check(PeerId::random(), prefix(0, 7)), refused);
        let dialled = burst + RATE_PER_IP.burst.get() - 1;
        for site in 0..RATE_TOTAL.burst.get() - dialled {
            let prefix = prefix(u16::try_from(1000 + site).unwrap(), 1);
            assert_eq!(limiters.check(PeerId::random(), prefix), Ok(()));
        }
        let refused = Err(DialDenied::RateTotal);
        assert_eq!(limiters.check(PeerId::random(), prefix(9999, 1)), refused);
        // One more after some time, and only one.
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        assert_eq!(limiters.check(peer, prefix(1, 1)), Ok(()));
        let refused = Err(DialDenied::RatePerPeer);
        assert_eq!(limiters.check(peer, prefix(2, 1)), refused);
    }
}
