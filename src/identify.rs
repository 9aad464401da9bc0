//! The [identify] protocol: reports the relay's identity and addresses to peers.
//!
//! This replaces `libp2p-identify`, which keeps the answers of peers. With the state of its handler,
//! that takes 5 KiB per idle peer for data that the relay does not use. This implementation answers
//! requests, and pushes to connected peers when the relay's addresses change.
//!
//! It also sends one request on each incoming connection, because clients wait for it: those that
//! follow rust-libp2p's tutorials proceed only once they have sent their own message. The answer is read
//! within 10 seconds and 16 KiB, and discarded, as are pushes of peers. The request costs one stream per
//! connection, and no memory once it is answered. Its stream does not keep an idle connection open, but
//! a peer that does not answer at all delays the idle timeout by up to 5 seconds.
//!
//! The message contains the relay's external addresses but no observed ones, and no signed peer
//! record, because clients that do not support its legacy form drop the whole message.
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
use lifecycle::Lifecycle;
use resource_manager::Resources;

pub use self::handler::{Handler, Push};
use self::message::Identify;

/// Data that all connections share.
#[derive(Debug)]
struct LocalInfo {
    /// Public key, as encoded in the message.
    public_key: Vec<u8>,
    /// External addresses, as encoded in the message.
    addresses: Mutex<Vec<Vec<u8>>>,
    lifecycle: Lifecycle,
    resources: Resources,
}

impl LocalInfo {
    /// The message for a peer observed at `observed`, with the protocols of its connection.
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

/// The identify behaviour; see the module documentation.
#[derive(Debug)]
pub struct Behaviour {
    local: Arc<LocalInfo>,
    addresses: ExternalAddresses,
    /// Peers to push to. Bounded by the number of connected peers.
    pushes: VecDeque<PeerId>,
}

impl Behaviour {
    /// Creates the behaviour of the relay with this public key. Tasks of streams are spawned on
    /// `lifecycle`. Connections are kept while there is room in `resources`.
    pub fn new(key: &PublicKey, lifecycle: Lifecycle, resources: Resources) -> Self {
        Self {
            local: Arc::new(LocalInfo {
                public_key: key.encode_protobuf(),
                addresses: Mutex::default(),
                lifecycle,
                resources,
            }),
            addresses: ExternalAddresses::default(),
            pushes: VecDeque::new(),
        }
    }

    /// Schedules a push to these peers, and only these.
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
        Ok(self.handler(remote).with_request())
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
