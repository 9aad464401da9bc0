//! Which addresses the relay may dial: only those that a peer is already connected from.
//!
//! The relay dials for one purpose, to tell a peer whether it can be reached (`AutoNAT` v2). Left
//! alone, that service dials whatever a stranger names, which makes the relay a scanner of the
//! network that it stands in. Here a peer can only have its own IP address dialled, and the transport
//! dials no private address ([`Dials::Global`](crate::transport::Dials::Global)): behind a proxy,
//! strangers seem to come from one. A proxy that tells where they really come from
//! ([`transport::proxy`](crate::transport::proxy)) is believed here as well: it is the client's own
//! address then, and nobody but the operator's proxies can name another.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::{relay::Relay, transport::ip_of};

/// Refuses every dial to an IP address that the peer does not connect from.
#[derive(Debug)]
pub struct Guard {
    relay: Arc<Relay>,
}

/// A dial was refused.
#[derive(Debug, thiserror::Error)]
#[error("a peer may only have the IP address dialled that it is connected from")]
pub struct Refused;

impl Guard {
    /// Asks `relay` which peer is connected from where.
    pub fn new(relay: Arc<Relay>) -> Self {
        Self { relay }
    }

    fn may_dial(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        // A name would have to be resolved, and could resolve to anything.
        ip_of(address).is_some_and(|ip| self.relay.is_connected_from(peer, ip))
    }
}

impl NetworkBehaviour for Guard {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let allowed = peer.is_some_and(|peer| addresses.iter().all(|a| self.may_dial(&peer, a)));
        if allowed {
            Ok(Vec::new())
        } else {
            Err(ConnectionDenied::new(Refused))
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        _peer: PeerId,
        _remote: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _event: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _connection_id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
