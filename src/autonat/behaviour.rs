//! The behaviour: starts the dials that requests cause, and closes the connections afterwards.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, TransportError,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm,
        NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use resource_manager::Resources;
use tokio::sync::mpsc;

use super::{Dial, DialResult, Finished, Handler, Server, Versions};
use crate::dialback::{DialOutcome, DialPolicy};

/// Requested dials that have not been started yet.
const MAX_QUEUED_DIALS: usize = 64;

/// The `AutoNAT` server; see the module documentation.
pub struct Behaviour {
    server: Arc<Server>,
    versions: Versions,
    /// Dials to start.
    requested: mpsc::Receiver<Dial>,
    /// Dials under way.
    dialling: HashMap<ConnectionId, Dial>,
    /// Connections whose dial back is over.
    to_close: VecDeque<(PeerId, ConnectionId)>,
}

/// The connection was not dialled for a request, or its request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no request waits for the connection")]
struct NotRequested;

impl Behaviour {
    /// Serves requests of `versions`; `policy` decides about dials.
    pub fn new(versions: Versions, policy: DialPolicy, resources: Resources) -> Self {
        let (dials, requested) = mpsc::channel(MAX_QUEUED_DIALS);
        Self {
            server: Arc::new(Server {
                policy,
                dials,
                resources,
            }),
            versions,
            requested,
            dialling: HashMap::new(),
            to_close: VecDeque::new(),
        }
    }

    /// Result of a dial that failed.
    fn failed(&self, dial: &Dial, error: &DialError) -> DialResult {
        match error {
            DialError::Denied { .. } => {
                let policy = &self.server.policy;
                policy.record(DialOutcome::MaxDials, dial.addresses.len());
                DialResult::Busy
            }
            DialError::Transport(errors)
                if errors.iter().all(|(_, error)| {
                    matches!(error, TransportError::MultiaddrNotSupported(_))
                }) =>
            {
                DialResult::NotDialable
            }
            _ => DialResult::Unreachable,
        }
    }
}

/// `address` without the peer id at its end.
fn without_peer_id(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let server = Arc::clone(&self.server);
        Ok(Handler::serving(server, peer, self.versions))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        _peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let Some(dial) = self.dialling.get(&connection_id) else {
            return Err(ConnectionDenied::new(NotRequested));
        };
        let policy = &self.server.policy;
        policy.record(DialOutcome::Dialled, dial.addresses.len());
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        _peer: PeerId,
        remote: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        match self.dialling.remove(&connection_id) {
            Some(dial) if !dial.result.is_closed() => {
                let server = Arc::clone(&self.server);
                let reached = without_peer_id(remote);
                Ok(Handler::dialling_back(server, dial, reached))
            }
            _ => Err(ConnectionDenied::new(NotRequested)),
        }
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::DialFailure(DialFailure {
            error,
            connection_id,
            ..
        }) = event
            && let Some(dial) = self.dialling.remove(&connection_id)
        {
            let result = self.failed(&dial, error);
            // The request may have been cancelled.
            let _ = dial.result.send(result);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection_id: ConnectionId,
        Finished: THandlerOutEvent<Self>,
    ) {
        self.to_close.push_back((peer, connection_id));
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.to_close.pop_front() {
            return Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(connection),
            });
        }
        while let Poll::Ready(Some(dial)) = self.requested.poll_recv(cx) {
            // The request may have been cancelled.
            if dial.result.is_closed() {
                continue;
            }
            // A new port: a NAT may have a mapping for the port of the listener.
            let opts = DialOpts::peer_id(dial.peer)
                .addresses(dial.addresses.clone())
                .condition(PeerCondition::Always)
                .allocate_new_port()
                .build();
            self.dialling.insert(opts.connection_id(), dial);
            return Poll::Ready(ToSwarm::Dial { opts });
        }
        Poll::Pending
    }
}
