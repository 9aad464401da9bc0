//! `AutoNAT` v2: dials a peer back, so that it learns whether it can be reached.
//!
//! The relay dials for no other purpose. Left alone, libp2p's server dials any address that a request
//! names, which makes the relay a scanner of networks. Three bounds hold here, before anything is sent:
//!
//! - **Which address.** A peer can only have an IP address dialled that it is connected from, and the
//!   transport dials no private address ([`DialScope::Global`](crate::transport::DialScope::Global)): behind a
//!   proxy, clients seem to connect from one. The client's address in the header of a trusted proxy
//!   ([`transport::proxy`](crate::transport::proxy)) counts as the address of the connection.
//! - **How often.** An address may be shared by many hosts behind a NAT, whose ports are not the
//!   peer's. So dials are limited for each address prefix (IPv4 /32, IPv6 /64), for each peer, and in
//!   total, in bounded memory ([`Limiter`]).
//! - **How many at once**, in `node::connection_limits`.
//!
//! # What the peer is answered
//!
//! The server of libp2p knows two answers for a dial that does not take place. `E_DIAL_ERROR` is a
//! verdict: a rust client takes the address for unreachable and does not ask again. It is the answer
//! to a request for a foreign address, which no later request changes. `E_INTERNAL_ERROR` is no
//! verdict: clients ask again later, or another server. It is the answer when a bound is reached.
//! `E_REQUEST_REJECTED` would be the exact one, but only libp2p's own code can send it.

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

use crate::{
    metrics::Metrics,
    rate::{Limiter, Rate, Unit},
    relay::Relay,
    resources::Prefix,
    transport::ip_of,
};

/// Dials to one address prefix. A client has a few addresses to test when it starts (at most 10 at
/// once in rust-libp2p), and tests one again after minutes. To try all 65,535 ports of an address
/// takes a week at this rate.
pub const RATE_PER_IP: Rate = Rate::fixed(10, 6, Unit::Minute);
/// Dials for one peer, to all addresses that it is connected from.
pub const RATE_PER_PEER: Rate = Rate::fixed(10, 6, Unit::Minute);
/// All dials. It takes 200 address prefixes that ask all the time to reach this rate, which costs a
/// few hundredths of a processor.
pub const RATE_TOTAL: Rate = Rate::fixed(200, 20, Unit::Second);

/// libp2p's server of `AutoNAT` v2 within these bounds.
pub struct Behaviour {
    server: server::Behaviour,
    relay: Arc<Relay>,
    metrics: Metrics,
    /// Boxed: they are large, and the behaviour is moved around.
    limiters: Box<DialLimiters>,
}

struct DialLimiters {
    peers: Limiter<PeerId>,
    prefixes: Limiter<Prefix>,
    total: Limiter<()>,
}

/// A dial was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialDenied {
    /// The peer is not connected from that IP address.
    #[error("a peer may only have the IP address dialled that it is connected from")]
    ForeignAddress,
    /// Too many dials for the peer.
    #[error("too many dials for the peer")]
    RatePerPeer,
    /// Too many dials to the address prefix.
    #[error("too many dials to the address prefix")]
    RatePerIp,
    /// Too many dials.
    #[error("too many dials")]
    RateTotal,
}

impl DialDenied {
    /// A short, stable word for metrics.
    fn outcome(self) -> &'static str {
        match self {
            Self::ForeignAddress => "foreign_address",
            Self::RatePerPeer => "rate_per_peer",
            Self::RatePerIp => "rate_per_ip",
            Self::RateTotal => "rate_total",
        }
    }
}

impl Behaviour {
    /// Dials peers that are connected to `relay`.
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

    /// Whether `peer` may have `addresses` dialled now; if so, that counts.
    fn check(&self, peer: Option<PeerId>, addresses: &[Multiaddr]) -> Result<(), DialDenied> {
        let peer = peer.ok_or(DialDenied::ForeignAddress)?;
        // libp2p's server has one address dialled at a time.
        let [address] = addresses else {
            return Err(DialDenied::ForeignAddress);
        };
        // A name would have to be resolved, and could resolve to anything.
        let ip = ip_of(address)
            .filter(|ip| self.relay.is_connected_from(&peer, *ip))
            .ok_or(DialDenied::ForeignAddress)?;
        self.limiters.check(peer, Prefix::host(ip))
    }

    /// Has the server answer a request with `E_INTERNAL_ERROR`. It does so when the handler of the
    /// dial-back is gone before the dial-back is, so that handler is made, and dropped at once.
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
    /// What exceeds a bound takes nothing from those after it, which concern more peers.
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
                self.metrics.autonat_dial("dialled");
                Ok(Vec::new())
            }
            Err(refused) => {
                debug!(reason = refused.outcome(), "AutoNAT dial refused");
                self.metrics.autonat_dial(refused.outcome());
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
                // By `node::connection_limits`.
                self.metrics.autonat_dial("max_dials");
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
    async fn dials_are_limited_for_a_peer_then_for_its_prefix_then_in_all() {
        let limiters = limiters();
        let peer = PeerId::random();
        let burst = RATE_PER_PEER.burst.get();
        // Wherever it connects from.
        for number in 0..burst {
            let prefix = prefix(u16::try_from(number).unwrap(), 1);
            assert_eq!(limiters.check(peer, prefix), Ok(()));
        }
        let refused = Err(DialDenied::RatePerPeer);
        assert_eq!(limiters.check(peer, prefix(0, 1)), refused);
        // That took nothing from the prefix, which all its hosts share.
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
        // One more after a while, and no more than one.
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        assert_eq!(limiters.check(peer, prefix(1, 1)), Ok(()));
        let refused = Err(DialDenied::RatePerPeer);
        assert_eq!(limiters.check(peer, prefix(2, 1)), refused);
    }
}
