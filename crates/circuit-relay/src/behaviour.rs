//! The relay as a libp2p [`NetworkBehaviour`]: creates a handler for each connection and limits the
//! connections of one peer. Handlers and tasks share one [`Relay`]; no request passes through the
//! swarm's event loop.

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
        THandlerOutEvent, ToSwarm,
    },
};

use super::{connection::Connection, handler::Handler, service::Relay};

/// Maximum number of simultaneous connections of one peer. A client needs one or two, and a few
/// more while it reconnects before its old connections are detected as dead.
pub const MAX_CONNECTIONS_PER_PEER: usize = 16;

/// A peer has [`MAX_CONNECTIONS_PER_PEER`] connections already.
#[derive(Debug, thiserror::Error)]
#[error("the peer has its maximum of {MAX_CONNECTIONS_PER_PEER} connections")]
pub struct TooManyConnections;

/// The relay's behaviour; see the module documentation.
#[derive(Debug)]
pub struct Behaviour {
    relay: Arc<Relay>,
}

impl Behaviour {
    /// Serves `relay` on every connection of the swarm.
    pub fn new(relay: Arc<Relay>) -> Self {
        Self { relay }
    }

    fn handler(
        &self,
        peer: PeerId,
        id: ConnectionId,
        local: Option<&Multiaddr>,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        if self.relay.connections_of(&peer) >= MAX_CONNECTIONS_PER_PEER {
            return Err(ConnectionDenied::new(TooManyConnections));
        }
        let (connection, stops) = Connection::new(peer, id, local, remote);
        Ok(Handler::new(Arc::clone(&self.relay), connection, stops))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, connection_id, Some(local), remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, connection_id, None, remote)
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
