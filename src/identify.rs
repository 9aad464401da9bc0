//! What the relay says of itself, to whoever asks ([identify]).
//!
//! Why not `libp2p-identify`. It asks every peer in turn, and keeps what each says of itself: five
//! KiB for each idle peer, with the state of its handler, that nobody here ever looks at. A relay
//! answers, and tells those that are connected when its addresses change; it does not ask. What
//! peers tell it unasked is read and forgotten.
//!
//! It lists the relay's external addresses and nothing that a stranger has seen, and no signed peer
//! record: clients that do not know its legacy form drop the message.
//!
//! [identify]: https://github.com/libp2p/specs/blob/master/identify/README.md

mod handler;
mod message;

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    identity::PublicKey,
    swarm::{
        ConnectionDenied, ConnectionId, ExternalAddresses, FromSwarm, NetworkBehaviour,
        NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

pub use self::handler::{Handler, Push};
use self::message::Identify;
use crate::lifecycle::Lifecycle;

/// What is the same for all connections.
#[derive(Debug)]
struct LocalInfo {
    /// As the message has it.
    public_key: Vec<u8>,
    /// As the message has them.
    addresses: Mutex<Vec<Vec<u8>>>,
    lifecycle: Lifecycle,
}

impl LocalInfo {
    /// The message for a peer that is seen at `observed`, and that may speak `protocols`.
    fn message(&self, observed: &Multiaddr, protocols: Vec<String>) -> Identify {
        let addresses = self.addresses.lock();
        Identify {
            public_key: Some(self.public_key.clone()),
            listen_addrs: addresses.unwrap_or_else(PoisonError::into_inner).clone(),
            protocols,
            observed_addr: Some(observed.to_vec()),
            protocol_version: Some("ipfs/0.1.0".to_owned()),
            agent_version: Some(concat!("descord-relay/", env!("CARGO_PKG_VERSION")).to_owned()),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Behaviour {
    local: Arc<LocalInfo>,
    addresses: ExternalAddresses,
    /// Whom to tell. No more than are connected.
    pushes: VecDeque<PeerId>,
}

impl Behaviour {
    /// Speaks for the relay that `key` identifies. The tasks of streams are spawned on `lifecycle`.
    pub fn new(key: &PublicKey, lifecycle: Lifecycle) -> Self {
        Self {
            local: Arc::new(LocalInfo {
                public_key: key.encode_protobuf(),
                addresses: Mutex::default(),
                lifecycle,
            }),
            addresses: ExternalAddresses::default(),
            pushes: VecDeque::new(),
        }
    }

    /// Tells these peers, and nobody else, what the relay says of itself now.
    pub fn push(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        self.pushes = peers.into_iter().collect();
    }

    fn handler(&self, remote: &Multiaddr) -> Handler {
        Handler::new(Arc::clone(&self.local), remote.clone())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        _peer: PeerId,
        remote: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if self.addresses.on_swarm_event(&event) {
            let addresses = self.addresses.iter().map(Multiaddr::to_vec).collect();
            let local = self.local.addresses.lock();
            *local.unwrap_or_else(PoisonError::into_inner) = addresses;
        }
    }

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
        let Some(peer_id) = self.pushes.pop_front() else {
            return Poll::Pending;
        };
        Poll::Ready(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::Any,
            event: Push,
        })
    }
}
