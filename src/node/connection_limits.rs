//! Limits of established connections, in total and per address prefix, and of dials.
//!
//! The `libp2p-connection-limits` behaviour keeps an entry for every peer id that was ever
//! connected, and peer ids are free. This one keeps entries of existing connections only.
//!
//! While at least three quarters of all connections are in use, a prefix beyond its share gets no
//! further ones. When all are in use, the newest connection without reservation and circuit, of the
//! prefix furthest beyond its share, is evicted for a new one.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use circuit_relay::{Connection, Relay};
use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm,
        NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished, dummy,
    },
};
use resource_manager::ConnectionDenyReason;
use resource_manager::map_shrink::ShrinkIfSparse as _;
use resource_manager::{self, Resources, ip_of};
use transports::ConnectionGater;

/// Dials that may be pending at once, and connections established by dials: those of `AutoNAT`,
/// which peers request. Each takes a file descriptor that is not counted.
const MAX_DIALS: usize = 64;

/// Source of connections that can be evicted.
pub(super) trait EvictionCandidates: Send + 'static {
    /// The newest connection without reservation and circuit, of the prefix that uses most of its
    /// share.
    fn newest_unused(&self, beyond: &resource_manager::BeyondShare) -> Option<Arc<Connection>>;
}

impl EvictionCandidates for Arc<Relay> {
    fn newest_unused(&self, beyond: &resource_manager::BeyondShare) -> Option<Arc<Connection>> {
        self.newest_unused_connection(beyond, |_| true)
    }
}

/// Denies connections beyond the limits, and evicts unused ones.
pub(super) struct Behaviour<C = Arc<Relay>> {
    resources: Resources,
    gater: ConnectionGater,
    candidates: C,
    pending_dials: HashSet<ConnectionId>,
    dialled: usize,
    /// Address for which each connection counts, except evicted ones. If a peer migrates to another
    /// address, its connection still counts for the address of its handshake.
    established: HashMap<ConnectionId, Option<IpAddr>>,
    /// Evicted connections that the swarm has not been instructed to close yet.
    to_close: VecDeque<(PeerId, ConnectionId)>,
}

/// Why a connection is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitExceeded {
    /// Too many pending dials.
    #[error("too many dials are pending")]
    Pending,
    /// Too many established connections.
    #[error("too many connections are established")]
    Established,
    /// Connections are scarce, and an address prefix uses its share.
    #[error("connections are scarce, and the address prefix uses its share")]
    Share,
}

impl LimitExceeded {
    /// The reason in logs and metrics.
    pub(super) fn reason(self) -> ConnectionDenyReason {
        match self {
            Self::Pending => ConnectionDenyReason::MaxPending,
            Self::Established => ConnectionDenyReason::MaxConnections,
            Self::Share => ConnectionDenyReason::ConnectionShare,
        }
    }
}

impl<C: EvictionCandidates> Behaviour<C> {
    pub(super) fn new(resources: Resources, gater: ConnectionGater, candidates: C) -> Self {
        Self {
            resources,
            gater,
            candidates,
            pending_dials: HashSet::new(),
            dialled: 0,
            established: HashMap::new(),
            to_close: VecDeque::new(),
        }
    }

    /// Checks the limits for one more connection from `ip`; `None` for a dialled address. Evicts a
    /// connection if necessary.
    fn check_established(&mut self, ip: Option<IpAddr>) -> Result<(), ConnectionDenied> {
        let capacity = u64::from(self.resources.limits().connections.active);
        let shares = self.resources.shares();
        let checked = self
            .resources
            .connections()
            .check(ip, Some(capacity), shares);
        let exceeded = match checked {
            Ok(()) => return Ok(()),
            Err(resource_manager::Exceeded::Share)
                if self.resources.connections().total() < capacity =>
            {
                LimitExceeded::Share
            }
            Err(resource_manager::Exceeded::Share) => LimitExceeded::Established,
            Err(resource_manager::Exceeded::Capacity) => {
                // Several prefixes within their shares can use up the capacity, so those that use more
                // than this one give way.
                let heavier = match ip {
                    Some(_) => self
                        .resources
                        .connections()
                        .heavier_than(ip, capacity, shares),
                    None => self.resources.connections().beyond_share(capacity, shares),
                };
                match self.candidates.newest_unused(&heavier) {
                    Some(unused) => {
                        self.close(&unused);
                        return Ok(());
                    }
                    None => LimitExceeded::Established,
                }
            }
        };
        Err(ConnectionDenied::new(exceeded))
    }

    /// Evicts a connection. It no longer counts from now on.
    fn close(&mut self, connection: &Connection) {
        if connection.evict()
            && let Some(ip) = self.established.remove(&connection.id)
        {
            self.resources.connections().remove(ip);
            self.gater.record_eviction();
            self.to_close.push_back((connection.peer, connection.id));
        }
    }
}

/// Source address of a connection. Dialled connections count for no prefix.
fn source_of(endpoint: &ConnectedPoint) -> Option<IpAddr> {
    match endpoint {
        ConnectedPoint::Listener { send_back_addr, .. } => ip_of(send_back_addr),
        ConnectedPoint::Dialer { .. } => None,
    }
}

fn check_below(
    number: usize,
    limit: usize,
    exceeded: LimitExceeded,
) -> Result<(), ConnectionDenied> {
    if number < limit {
        Ok(())
    } else {
        Err(ConnectionDenied::new(exceeded))
    }
}

impl<C: EvictionCandidates> NetworkBehaviour for Behaviour<C> {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_established(ip_of(remote))?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        _peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        check_below(self.pending_dials.len(), MAX_DIALS, LimitExceeded::Pending)?;
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
        self.pending_dials.remove(&connection_id);
        check_below(self.dialled, MAX_DIALS, LimitExceeded::Established)?;
        self.check_established(None)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                endpoint,
                connection_id,
                ..
            }) => {
                let ip = source_of(endpoint);
                self.resources.connections().add(ip);
                self.established.insert(connection_id, ip);
                self.dialled += usize::from(endpoint.is_dialer());
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                endpoint,
                connection_id,
                ..
            }) => {
                if let Some(ip) = self.established.remove(&connection_id) {
                    self.resources.connections().remove(ip);
                }
                self.established.shrink_if_sparse();
                self.dialled -= usize::from(endpoint.is_dialer()).min(self.dialled);
            }
            FromSwarm::DialFailure(failure) => {
                self.pending_dials.remove(&failure.connection_id);
            }
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
        // The swarm polls its behaviours after every event, so no wake is needed.
        match self.to_close.pop_front() {
            Some((peer_id, connection)) => Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(connection),
            }),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::swarm::{DialError, behaviour};

    use super::*;
    use resource_manager::ConnectionLimits;
    use resource_manager::{CircuitLimits, ResourceLimits, Shares};

    /// Connections that the test marks as used or unused.
    #[derive(Default)]
    struct Unused(Vec<Arc<Connection>>);

    impl EvictionCandidates for Unused {
        fn newest_unused(&self, beyond: &resource_manager::BeyondShare) -> Option<Arc<Connection>> {
            let candidates = self.0.iter().filter(|c| c.is_unused());
            candidates
                .filter(|c| resource_manager::excess(c.ip, beyond).is_some())
                .max_by_key(|c| c.id)
                .cloned()
        }
    }

    fn address(ip: &str) -> Multiaddr {
        format!("/ip4/{ip}/tcp/9000").parse().unwrap()
    }

    fn reason<T>(result: Result<T, ConnectionDenied>) -> Option<LimitExceeded> {
        let error = result.err()?;
        Some(error.downcast::<LimitExceeded>().unwrap())
    }

    fn incoming(ip: &str) -> ConnectedPoint {
        ConnectedPoint::Listener {
            local_addr: address("203.0.113.1"),
            send_back_addr: address(ip),
        }
    }

    fn dialled() -> ConnectedPoint {
        ConnectedPoint::Dialer {
            address: address("203.0.113.2"),
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        }
    }

    fn opened(limits: &mut Behaviour<Unused>, id: usize, endpoint: &ConnectedPoint) {
        limits.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(id),
            endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    fn closed(limits: &mut Behaviour<Unused>, id: usize, endpoint: &ConnectedPoint) {
        limits.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(id),
            endpoint,
            cause: None,
            remaining_established: 0,
        }));
    }

    /// Establishes an unused connection from `ip`.
    fn establish(limits: &mut Behaviour<Unused>, id: usize, ip: &str) -> Option<LimitExceeded> {
        let (peer, connection) = (PeerId::random(), ConnectionId::new_unchecked(id));
        let (local, remote) = (address("203.0.113.1"), address(ip));
        let result =
            limits.handle_established_inbound_connection(connection, peer, &local, &remote);
        let denied = reason(result);
        if denied.is_none() {
            opened(limits, id, &incoming(ip));
            let (unused, _) = Connection::new(peer, connection, Some(&local), &remote);
            limits.candidates.0.push(Arc::new(unused));
        }
        denied
    }

    fn dial(limits: &mut Behaviour<Unused>, id: usize) -> Option<LimitExceeded> {
        let (id, role) = (ConnectionId::new_unchecked(id), Endpoint::Dialer);
        reason(limits.handle_pending_outbound_connection(id, None, &[], role))
    }

    fn reach(limits: &mut Behaviour<Unused>, id: usize) -> Option<LimitExceeded> {
        let (connection, peer) = (ConnectionId::new_unchecked(id), PeerId::random());
        let (role, port) = (Endpoint::Dialer, PortUse::New);
        let denied = reason(limits.handle_established_outbound_connection(
            connection,
            peer,
            &address("203.0.113.2"),
            role,
            port,
        ));
        if denied.is_none() {
            opened(limits, id, &dialled());
        }
        denied
    }

    fn limited_to(active: u32) -> Behaviour<Unused> {
        let limits = ResourceLimits {
            connections: ConnectionLimits { active, pending: 2 },
            ..ResourceLimits::new(None, None, &CircuitLimits::default())
        };
        let resources = Resources::new(limits, Shares::default());
        Behaviour::new(resources, ConnectionGater::unlimited(), Unused::default())
    }

    #[test]
    fn connections_of_one_address_are_evicted_when_all_are_in_use() {
        let mut limits = limited_to(16);
        for id in 0..12 {
            assert_eq!(establish(&mut limits, id, "192.0.2.1"), None);
        }
        assert_eq!(
            establish(&mut limits, 12, "192.0.2.1"),
            Some(LimitExceeded::Share)
        );
        for id in 12..18 {
            let ip = format!("198.51.{id}.1");
            assert_eq!(establish(&mut limits, id, &ip), None);
        }
        assert_eq!(limits.resources.connections().total(), 16);
        let closing: Vec<_> = limits.to_close.iter().map(|(_, id)| *id).collect();
        assert_eq!(closing, [11, 10].map(ConnectionId::new_unchecked));
        // They do not count any more.
        for id in [11, 10] {
            closed(&mut limits, id, &incoming("192.0.2.1"));
        }
        assert_eq!(
            (
                limits.resources.connections().total(),
                limits.established.len()
            ),
            (16, 16)
        );
        closed(&mut limits, 12, &incoming("198.51.12.1"));
        assert_eq!(limits.resources.connections().total(), 15);
    }

    #[test]
    fn no_connection_is_evicted_when_no_prefix_is_beyond_its_share() {
        let mut limits = limited_to(8);
        for id in 0..8 {
            assert_eq!(establish(&mut limits, id, &format!("198.51.{id}.1")), None);
        }
        let refused = establish(&mut limits, 8, "198.51.8.1");
        assert_eq!(refused, Some(LimitExceeded::Established));
        assert!(limits.to_close.is_empty());
    }

    #[test]
    fn connection_counts_for_its_first_address_when_its_peer_migrates() {
        let mut limits = limited_to(16);
        assert_eq!(establish(&mut limits, 1, "192.0.2.1"), None);
        assert_eq!(establish(&mut limits, 2, "198.51.100.1"), None);
        // The swarm reports the new address when the connection is closed.
        closed(&mut limits, 1, &incoming("198.51.100.1"));
        let largest = limits.resources.connections().largest();
        let largest = largest.map(|(prefix, count)| (prefix.to_string(), count));
        assert_eq!(largest, Some(("198.51.100.1/32".to_owned(), 1)));
        closed(&mut limits, 2, &incoming("192.0.2.1"));
        assert_eq!(limits.resources.connections().largest(), None);
    }

    #[test]
    fn dials_are_limited_separately() {
        let mut limits = limited_to(1000);
        for id in 0..MAX_DIALS {
            assert_eq!(dial(&mut limits, id), None);
        }
        assert_eq!(dial(&mut limits, 1000), Some(LimitExceeded::Pending));
        for id in 0..MAX_DIALS {
            assert_eq!(reach(&mut limits, id), None);
        }
        assert_eq!(dial(&mut limits, 1001), None);
        assert_eq!(reach(&mut limits, 1001), Some(LimitExceeded::Established));
        closed(&mut limits, 0, &dialled());
        assert_eq!(dial(&mut limits, 1002), None);
        assert_eq!(reach(&mut limits, 1002), None);
    }

    #[test]
    fn closed_connections_leave_no_state() {
        let mut limits = limited_to(3);
        for id in 0..1000 {
            assert_eq!(establish(&mut limits, id, "192.0.2.1"), None);
            closed(&mut limits, id, &incoming("192.0.2.1"));
            limits.candidates.0.clear();
            assert_eq!(dial(&mut limits, 1000 + id), None);
            limits.on_swarm_event(FromSwarm::DialFailure(behaviour::DialFailure {
                peer_id: None,
                error: &DialError::Aborted,
                connection_id: ConnectionId::new_unchecked(1000 + id),
            }));
        }
        assert!(limits.pending_dials.is_empty() && limits.established.is_empty());
        assert_eq!(
            (limits.resources.connections().total(), limits.dialled),
            (0, 0)
        );
    }
}
