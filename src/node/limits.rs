//! How many connections there may be, on their way and up.
//!
//! libp2p's own behaviour for it remembers every peer id that was ever connected, and peer ids cost
//! strangers nothing. This one remembers connections, and those only as long as they are there.

use std::{
    collections::HashSet,
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished, dummy,
    },
};

use crate::metrics::ConnectionLimits;

/// Dials that may be under way at once, and connections that may have come of them: those of
/// `AutoNAT`, which strangers ask for. Each takes a descriptor that nobody counts.
const MAX_DIALS: usize = 64;

/// Refuses connections for which there is no room.
#[derive(Debug)]
pub(super) struct Behaviour {
    limits: ConnectionLimits,
    pending_incoming: HashSet<ConnectionId>,
    pending_dials: HashSet<ConnectionId>,
    incoming: usize,
    dialled: usize,
}

/// There is no room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    /// As many are on their way as may be.
    #[error("too many connections are on their way")]
    Pending,
    /// As many are up as may be.
    #[error("too many connections are up")]
    Established,
}

impl Exceeded {
    /// For logs and metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Pending => "max_pending",
            Self::Established => "max_connections",
        }
    }
}

impl Behaviour {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            pending_incoming: HashSet::new(),
            pending_dials: HashSet::new(),
            incoming: 0,
            dialled: 0,
        }
    }

    /// Room for one more that is up.
    fn check_established(&self) -> Result<(), ConnectionDenied> {
        below(
            self.incoming.saturating_add(self.dialled),
            limit(self.limits.active),
            Exceeded::Established,
        )
    }

    /// Where connections of this kind are counted.
    fn count(&mut self, endpoint: &ConnectedPoint) -> &mut usize {
        if endpoint.is_listener() {
            &mut self.incoming
        } else {
            &mut self.dialled
        }
    }

    fn forget_pending(&mut self, connection: ConnectionId) {
        self.pending_incoming.remove(&connection);
        self.pending_dials.remove(&connection);
    }
}

fn limit(connections: u32) -> usize {
    usize::try_from(connections).unwrap_or(usize::MAX)
}

fn below(number: usize, limit: usize, exceeded: Exceeded) -> Result<(), ConnectionDenied> {
    if number < limit {
        Ok(())
    } else {
        Err(ConnectionDenied::new(exceeded))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection_id: ConnectionId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let pending = self.pending_incoming.len();
        below(pending, limit(self.limits.pending), Exceeded::Pending)?;
        self.pending_incoming.insert(connection_id);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection_id: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.forget_pending(connection_id);
        self.check_established()?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        _peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        below(self.pending_dials.len(), MAX_DIALS, Exceeded::Pending)?;
        self.pending_dials.insert(connection_id);
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        _peer: PeerId,
        _remote: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.forget_pending(connection_id);
        below(self.dialled, MAX_DIALS, Exceeded::Established)?;
        self.check_established()?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { endpoint, .. }) => {
                *self.count(endpoint) += 1;
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { endpoint, .. }) => {
                let count = self.count(endpoint);
                *count = count.saturating_sub(1);
            }
            FromSwarm::DialFailure(failure) => self.forget_pending(failure.connection_id),
            FromSwarm::ListenFailure(failure) => self.forget_pending(failure.connection_id),
            _ => {}
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
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use libp2p::swarm::{DialError, ListenError, behaviour};

    use super::*;

    fn address() -> Multiaddr {
        "/ip4/203.0.113.7/tcp/9000".parse().unwrap()
    }

    fn reason<T>(result: Result<T, ConnectionDenied>) -> Option<Exceeded> {
        let error = result.err()?;
        Some(error.downcast::<Exceeded>().unwrap())
    }

    fn endpoint(dialled: bool) -> ConnectedPoint {
        if dialled {
            ConnectedPoint::Dialer {
                address: address(),
                role_override: Endpoint::Dialer,
                port_use: PortUse::New,
            }
        } else {
            ConnectedPoint::Listener {
                local_addr: address(),
                send_back_addr: address(),
            }
        }
    }

    fn opened(limits: &mut Behaviour, id: usize, dialled: bool) {
        limits.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(id),
            endpoint: &endpoint(dialled),
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    fn closed(limits: &mut Behaviour, id: usize, dialled: bool) {
        limits.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(id),
            endpoint: &endpoint(dialled),
            cause: None,
            remaining_established: 0,
        }));
    }

    fn arrives(limits: &mut Behaviour, id: usize) -> Option<Exceeded> {
        let id = ConnectionId::new_unchecked(id);
        reason(limits.handle_pending_inbound_connection(id, &address(), &address()))
    }

    fn comes_up(limits: &mut Behaviour, id: usize) -> Option<Exceeded> {
        let peer = PeerId::random();
        let connection = ConnectionId::new_unchecked(id);
        let result =
            limits.handle_established_inbound_connection(connection, peer, &address(), &address());
        let denied = reason(result);
        if denied.is_none() {
            opened(limits, id, false);
        }
        denied
    }

    fn dials(limits: &mut Behaviour, id: usize) -> Option<Exceeded> {
        let (id, role) = (ConnectionId::new_unchecked(id), Endpoint::Dialer);
        reason(limits.handle_pending_outbound_connection(id, None, &[], role))
    }

    fn reaches(limits: &mut Behaviour, id: usize) -> Option<Exceeded> {
        let (connection, peer) = (ConnectionId::new_unchecked(id), PeerId::random());
        let (role, port) = (Endpoint::Dialer, PortUse::New);
        let denied = reason(limits.handle_established_outbound_connection(
            connection,
            peer,
            &address(),
            role,
            port,
        ));
        if denied.is_none() {
            opened(limits, id, true);
        }
        denied
    }

    fn small() -> Behaviour {
        Behaviour::new(ConnectionLimits {
            active: 3,
            pending: 2,
        })
    }

    #[test]
    fn who_comes_in_has_a_place_on_the_way_and_one_when_up() {
        let mut limits = small();
        assert_eq!(
            (arrives(&mut limits, 1), arrives(&mut limits, 2)),
            (None, None)
        );
        assert_eq!(arrives(&mut limits, 3), Some(Exceeded::Pending));
        assert_eq!(comes_up(&mut limits, 1), None);
        assert_eq!(arrives(&mut limits, 3), None);
        assert_eq!(comes_up(&mut limits, 2), None);
        assert_eq!(comes_up(&mut limits, 3), None);
        assert_eq!(arrives(&mut limits, 4), None);
        assert_eq!(comes_up(&mut limits, 4), Some(Exceeded::Established));
        closed(&mut limits, 1, false);
        assert_eq!(arrives(&mut limits, 5), None);
        assert_eq!(comes_up(&mut limits, 5), None);
    }

    #[test]
    fn dials_have_places_of_their_own() {
        let mut limits = Behaviour::new(ConnectionLimits {
            active: 1000,
            pending: 2,
        });
        for id in 0..MAX_DIALS {
            assert_eq!(dials(&mut limits, id), None);
        }
        assert_eq!(dials(&mut limits, 1000), Some(Exceeded::Pending));
        for id in 0..MAX_DIALS {
            assert_eq!(reaches(&mut limits, id), None);
        }
        assert_eq!(dials(&mut limits, 1001), None);
        assert_eq!(reaches(&mut limits, 1001), Some(Exceeded::Established));
        closed(&mut limits, 0, true);
        assert_eq!(dials(&mut limits, 1002), None);
        assert_eq!(reaches(&mut limits, 1002), None);
    }

    /// What has failed, and who is gone, leaves nothing behind.
    #[test]
    fn nothing_is_remembered_of_who_is_gone() {
        let mut limits = small();
        for id in 0..1000 {
            assert_eq!(arrives(&mut limits, id), None);
            let connection_id = ConnectionId::new_unchecked(id);
            if id % 2 == 0 {
                assert_eq!(comes_up(&mut limits, id), None);
                closed(&mut limits, id, false);
            } else {
                limits.on_swarm_event(FromSwarm::ListenFailure(behaviour::ListenFailure {
                    local_addr: &address(),
                    send_back_addr: &address(),
                    error: &ListenError::Aborted,
                    connection_id,
                    peer_id: None,
                }));
            }
            assert_eq!(dials(&mut limits, 1000 + id), None);
            limits.on_swarm_event(FromSwarm::DialFailure(behaviour::DialFailure {
                peer_id: None,
                error: &DialError::Aborted,
                connection_id: ConnectionId::new_unchecked(1000 + id),
            }));
        }
        assert!(limits.pending_incoming.is_empty() && limits.pending_dials.is_empty());
        assert_eq!((limits.incoming, limits.dialled), (0, 0));
    }
}
