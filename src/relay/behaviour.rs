//! The relay as a behaviour of a libp2p swarm: a handler for each connection, of which a peer may
//! have so many, and nothing else.
//! Handlers and tasks share one [`Relay`]; nothing goes through the swarm's event loop.

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

/// Connections that one peer may have at once. A client needs one or two; a reconnecting one a
/// few more until its old ones are noticed to be dead.
pub const MAX_CONNECTIONS_PER_PEER: usize = 16;

/// A peer has as many connections as it may.
#[derive(Debug, thiserror::Error)]
#[error("the peer has {MAX_CONNECTIONS_PER_PEER} connections, and may not have more")]
pub struct TooManyConnections;

/// See the module's documentation.
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
