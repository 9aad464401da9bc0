//! State that all connections of one relay share.

use std::{
    cmp::Reverse,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol, swarm::ConnectionId};
use lifecycle::Lifecycle;
use resource_manager::{BeyondShare, Resource, ResourceUse, Shares, Usage, excess};
use tokio::sync::Notify;

use super::{
    access::Access,
    bandwidth::BandwidthLimiter,
    circuit::EndReason,
    connection::Connection,
    deny_reason::DenyReason,
    ledger::{EndedReservation, Grant, Ledger, PeerState, ReservationEndCause},
    limits::{CircuitLimit, Limits},
    observer::Observer,
    request_limiters::RequestLimiters,
    traffic::Traffic,
};

/// Divisor of the connections with a reservation that are closed at once when memory has run out.
const SHED_DIVISOR: usize = 8;

/// Maximum length of all addresses in an answer, in bytes. Clients refuse messages of more than
/// 4,096 bytes, which include the voucher.
const MAX_ADDRESS_BYTES: usize = 3072;

/// Configuration of a [`Relay`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The limits.
    pub limits: Limits,
    /// Access control; `None` grants every request.
    pub access: Option<Arc<dyn Access>>,
    /// Receives the reports of the relay.
    pub observer: Arc<dyn Observer>,
    /// The tasks of requests and circuits are spawned on it. Its shutdown token ends them.
    pub lifecycle: Lifecycle,
}

/// The default limits, no access control, no observer, and a new lifecycle.
impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            access: None,
            observer: Arc::new(()),
            lifecycle: Lifecycle::new(),
        }
    }
}

/// One relay: its key, its reservation table and its counters.
#[derive(Debug)]
pub struct Relay {
    keypair: Keypair,
    peer_id: PeerId,
    lifecycle: Lifecycle,
    ledger: Mutex<Ledger<Arc<Connection>>>,
    limits: Limits,
    request_limiters: RequestLimiters,
    access: Option<Arc<dyn Access>>,
    observer: Arc<dyn Observer>,
    addresses: RwLock<Arc<[Multiaddr]>>,
    first_reservation: Notify,
    circuit_ended: Notify,
    /// The deadline of the drain, once there is one.
    drain_deadline: OnceLock<Instant>,
    streams: AtomicU64,
    traffic: Traffic,
    bandwidth_limiter: Option<Arc<BandwidthLimiter>>,
    opened: AtomicU64,
    finished: AtomicU64,
    cut: AtomicU64,
}

/// Current state and totals of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Peers with a reservation.
    pub reservations: usize,
    /// Circuits that are open or being opened.
    pub circuits: usize,
    /// Peers that are connected or have a circuit.
    pub peers: usize,
    /// Bytes that circuits have relayed, in both directions.
    pub bytes: u64,
    /// Circuits that have ended, except those that the relay cut at shutdown.
    pub circuits_finished: u64,
    /// Circuits that the relay cut at shutdown.
    pub circuits_cut: u64,
}

impl Relay {
    /// Creates the relay with this key, without connections and without addresses to announce.
    pub fn new(keypair: Keypair, config: Config) -> Arc<Self> {
        let Config {
            limits,
            access,
            observer,
            lifecycle,
        } = config;
        Arc::new(Self {
            peer_id: keypair.public().to_peer_id(),
            keypair,
            lifecycle,
            ledger: Mutex::new(Ledger::new(limits.clone())),
            request_limiters: RequestLimiters::new(&limits),
            bandwidth_limiter: BandwidthLimiter::new(&limits.bandwidth),
            limits,
            access,
            observer,
            addresses: RwLock::default(),
            first_reservation: Notify::new(),
            circuit_ended: Notify::new(),
            drain_deadline: OnceLock::new(),
            streams: AtomicU64::new(0),
            traffic: Traffic::default(),
            opened: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        })
    }

    /// Peer id of the relay.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Current state and totals.
    pub fn statistics(&self) -> Statistics {
        let ledger = self.ledger();
        Statistics {
            reservations: ledger.reservations(),
            circuits: ledger.circuits(),
            peers: ledger.peers(),
            bytes: self.traffic.bytes(),
            circuits_finished: self.finished.load(Ordering::Relaxed),
            circuits_cut: self.cut.load(Ordering::Relaxed),
        }
    }

    /// Announced addresses, each ending in `/p2p/<relay>`.
    pub fn addresses(&self) -> Arc<[Multiaddr]> {
        Arc::clone(
            &self
                .addresses
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Sets the addresses to announce, the most important first. Trailing addresses that would make
    /// an answer too long for clients are left out. Returns the number of announced addresses.
    pub fn announce(&self, addresses: &[Multiaddr]) -> usize {
        let mut bytes = 0;
        let addresses: Arc<[Multiaddr]> = addresses
            .iter()
            .map(|address| address.clone().with(Protocol::P2p(self.peer_id)))
            .take_while(|address| {
                bytes += address.len() + 3;
                bytes <= MAX_ADDRESS_BYTES
            })
            .collect();
        let number = addresses.len();
        *self
            .addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner) = addresses;
        number
    }

    /// Whether `peer` has a direct connection from `ip`.
    pub fn is_connected_from(&self, peer: &PeerId, ip: IpAddr) -> bool {
        let from = |connection: &Arc<Connection>| {
            connection
                .ip
                .is_some_and(|other| other.to_canonical() == ip.to_canonical())
        };
        self.ledger().any_connection(peer, from)
    }

    /// From now on, circuits get a limit that ends before `deadline`. Only the first call has an
    /// effect.
    pub fn limit_circuits_to(&self, deadline: Instant) {
        let _ = self.drain_deadline.set(deadline);
    }

    /// Starts a drain: only renewals are granted, and no reservation lasts beyond `deadline`.
    pub fn drain(&self, deadline: Instant) {
        self.ledger().drain(deadline);
    }

    /// Number of direct connections of `peer`.
    pub fn connections_of(&self, peer: &PeerId) -> usize {
        self.ledger().connections_of(peer)
    }

    /// All direct connections, in no particular order.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.ledger().connections().cloned().collect()
    }

    /// Accepted circuits whose end has not been reported yet.
    pub fn open_circuits(&self) -> u64 {
        let ended = self.finished.load(Ordering::Acquire) + self.cut.load(Ordering::Acquire);
        self.opened.load(Ordering::Acquire).saturating_sub(ended)
    }

    /// Completes when a circuit has ended since the last call.
    pub async fn circuit_ended(&self) {
        self.circuit_ended.notified().await;
    }

    /// Limits of the relay.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Ends reservations when they expire. Runs until the relay stops.
    pub async fn expire_reservations(self: Arc<Self>) {
        loop {
            let next = self.ledger().next_expiry();
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => self.first_reservation.notified().await,
            }
            self.expire(now());
        }
    }

    fn expire(&self, now: Instant) {
        loop {
            // The table is not locked while the event is reported.
            let Some(ended) = self.ledger().expire(now) else {
                return;
            };
            self.reservation_ended(ended, ReservationEndCause::NotRenewed);
        }
    }

    /// Bytes that circuits have relayed.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The bandwidth limiter, if bandwidth is limited.
    pub fn bandwidth_limiter(&self) -> Option<&Arc<BandwidthLimiter>> {
        self.bandwidth_limiter.as_ref()
    }

    /// Current state of each of these peers.
    pub fn peer_states(&self, peers: impl Iterator<Item = PeerId>) -> Vec<PeerState> {
        let ledger = self.ledger();
        peers.map(|peer| ledger.peer_state(&peer)).collect()
    }

    /// Connections to close when memory has run out, at most `count`: those without reservation and
    /// circuit; if there are none, those of address prefixes beyond their share, even with a
    /// circuit; if there are none either and `may_close_reserved` is set, a part of those without
    /// circuit. The newest of the prefixes furthest beyond their share come first.
    pub fn connections_to_shed(
        &self,
        count: usize,
        may_close_reserved: bool,
        shares: &Shares,
    ) -> Vec<ConnectionId> {
        let ledger = self.ledger();
        let mut usage = Usage::default();
        for connection in ledger.connections() {
            usage.add(connection.ip);
        }
        let beyond = usage.beyond_share(usage.total(), shares);
        let without_circuit = ledger.connections().filter(|c| !c.is_busy());
        let (reserved, idle): (Vec<_>, Vec<_>) =
            without_circuit.partition(|c| c.holds_reservation());
        let is_beyond = |c: &&Arc<Connection>| excess(c.ip, &beyond).is_some();
        let beyond_share: Vec<_> = ledger.connections().filter(is_beyond).collect();
        let (mut candidates, count) = if !idle.is_empty() {
            (idle, count)
        } else if !beyond_share.is_empty() {
            (beyond_share, count)
        } else if may_close_reserved {
            let part = reserved.len().div_ceil(SHED_DIVISOR);
            (reserved, count.min(part))
        } else {
            return Vec::new();
        };
        candidates.sort_unstable_by_key(|c| Reverse((excess(c.ip, &beyond), c.id)));
        candidates.truncate(count);
        candidates
            .into_iter()
            .map(|connection| connection.id)
            .collect()
    }

    /// The newest connection without reservation and circuit, of the prefix furthest beyond its
    /// share, among those that `may_close` accepts.
    pub fn newest_unused_connection(
        &self,
        beyond: &BeyondShare,
        may_close: impl Fn(&Connection) -> bool,
    ) -> Option<Arc<Connection>> {
        if beyond.is_empty() {
            return None;
        }
        let ledger = self.ledger();
        ledger
            .connections()
            .filter(|connection| connection.is_unused() && may_close(connection))
            .filter_map(|connection| Some((excess(connection.ip, beyond)?, connection)))
            .max_by_key(|(excess, connection)| (*excess, connection.id))
            .map(|(_, connection)| Arc::clone(connection))
    }

    /// Use of reservations and circuits.
    pub fn report(&self) -> [ResourceUse; 2] {
        let limit = |limit: Option<usize>| limit.map(|limit| limit as u64);
        let ledger = self.ledger();
        [
            ResourceUse::of(
                Resource::Reservations,
                ledger.reservation_usage(),
                limit(self.limits.reservations),
            ),
            ResourceUse::of(
                Resource::Circuits,
                ledger.circuit_usage(),
                limit(self.limits.circuits),
            ),
        ]
    }

    /// Checks the rate limits of reservation requests. Renewals are exempt, so that a flood of
    /// requests does not cost a peer its reservation.
    pub(super) fn check_reserve_rate(&self, connection: &Connection) -> Result<(), DenyReason> {
        let is_limited = self.request_limiters.limits_reservations();
        if is_limited && !self.ledger().is_reserved(&connection.peer, now()) {
            return self.request_limiters.reserve(connection);
        }
        Ok(())
    }

    /// Checks the rate limits of circuit requests.
    pub(super) fn check_connect_rate(&self, connection: &Connection) -> Result<(), DenyReason> {
        self.request_limiters.connect(connection)
    }

    /// Access control; `None` grants every request.
    pub(super) fn access(&self) -> Option<&dyn Access> {
        self.access.as_deref()
    }

    pub(super) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The lifecycle on which the relay spawns its tasks.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// The configured limit of circuits.
    pub(super) fn circuit_limit(&self) -> CircuitLimit {
        self.limits.circuit
    }

    /// Time until the deadline of the drain, once there is one.
    pub(super) fn drain_time_left(&self) -> Option<Duration> {
        let deadline = self.drain_deadline.get()?;
        Some(deadline.saturating_duration_since(now()))
    }

    pub(super) fn next_stream_number(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// Receives the reports of the relay.
    pub(super) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    /// Reports the end of a reservation.
    pub(super) fn reservation_ended(
        &self,
        EndedReservation { peer, since }: EndedReservation,
        cause: ReservationEndCause,
    ) {
        let lasted = now().saturating_duration_since(since);
        // The drain closes the connections.
        let is_drained = cause == ReservationEndCause::Disconnected
            && self.lifecycle.drain_token().is_cancelled();
        let cause = if is_drained {
            ReservationEndCause::Draining
        } else {
            cause
        };
        self.observer.reservation_ended(peer, cause, lasted);
    }

    /// Grants or renews a reservation.
    pub(super) fn grant(&self, connection: &Connection) -> Result<Grant, DenyReason> {
        let now = now();
        self.expire(now);
        let grant = {
            let mut ledger = self.ledger();
            let grant = ledger.reserve(now, connection.peer, connection.id, connection.ip)?;
            if ledger.reservations() == 1 {
                self.first_reservation.notify_one();
            }
            grant
        };
        let ttl = grant.expires.saturating_duration_since(now);
        self.observer
            .reservation_accepted(connection.peer, grant.renews_after, ttl);
        Ok(grant)
    }

    /// The recent grant that an early renewal repeats, if any.
    pub(super) fn recent_grant(&self, connection: &Connection) -> Option<Grant> {
        self.ledger()
            .recent_grant(now(), connection.peer, connection.id)
    }

    /// The unexpired grant, for a renewal on which no decision is available.
    pub(super) fn existing_grant(&self, connection: &Connection) -> Option<Grant> {
        self.ledger().existing_grant(now(), connection.peer)
    }

    /// Counts an opened circuit.
    pub(super) fn count_opened(&self) {
        self.opened.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a circuit that has ended and has been reported.
    pub(super) fn count_ended(&self, end: EndReason) {
        let total = if end == EndReason::Drained {
            &self.cut
        } else {
            &self.finished
        };
        total.fetch_add(1, Ordering::AcqRel);
        self.notify_circuit_ended();
    }

    /// Notifies waiters that a slot is free.
    pub(super) fn notify_circuit_ended(&self) {
        self.circuit_ended.notify_one();
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger<Arc<Connection>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clock of the reservation table. Tests with paused time control it.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
