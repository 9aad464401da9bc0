//! What all connections of one relay share.

use std::{
    cmp::Reverse,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol, swarm::ConnectionId};
use tokio::sync::Notify;

use super::{
    access::Access,
    bandwidth::BandwidthLimiter,
    circuit::EndReason,
    circuit_state::CircuitState,
    connection::Connection,
    deny_reason::DenyReason,
    events,
    guards::{CircuitPermit, Registration, ReservationGuard},
    ledger::{Grant, Ledger, PeerState},
    limits::{CircuitLimit, Limits},
    request_limiters::RequestLimiters,
    traffic::Traffic,
};
use crate::{
    lifecycle::Lifecycle,
    log_throttle::LogThrottle,
    metrics::Metrics,
    peer_stats::PeerStats,
    pseudonym::Pseudonyms,
    resources::{BeyondShare, Resource, ResourceUse, Shares, Usage, excess},
};

/// Of those who hold a reservation, one in so many is closed at once when memory has run out.
const SHED_DIVISOR: usize = 8;

/// How many bytes of addresses an answer may carry: it has to stay under 4,096 bytes with its
/// voucher, since clients refuse longer ones.
const MAX_ADDRESS_BYTES: usize = 3072;

/// One relay: its key, its books and its totals.
#[derive(Debug)]
pub struct Relay {
    keypair: Keypair,
    peer_id: PeerId,
    lifecycle: Lifecycle,
    pseudonyms: Pseudonyms,
    ledger: Mutex<Ledger<Arc<Connection>>>,
    limits: Limits,
    request_limiters: RequestLimiters,
    log_throttle: LogThrottle,
    access: Option<Arc<dyn Access>>,
    addresses: RwLock<Arc<[Multiaddr]>>,
    first_reservation: Notify,
    circuit_ended: Notify,
    streams: AtomicU64,
    metrics: Metrics,
    peer_stats: Option<Arc<PeerStats>>,
    traffic: Traffic,
    bandwidth_limiter: Option<Arc<BandwidthLimiter>>,
    opened: AtomicU64,
    finished: AtomicU64,
    cut: AtomicU64,
}

/// What the relay does at this moment and has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Peers that hold a reservation.
    pub reservations: usize,
    /// Circuits that are open or being opened.
    pub circuits: usize,
    /// Peers that are connected or have a circuit open.
    pub peers: usize,
    /// Bytes that circuits have carried, both directions together.
    pub bytes: u64,
    /// Circuits that have ended, however they did, unless the relay itself cut them to shut down.
    pub circuits_finished: u64,
    /// Circuits that the relay cut to shut down.
    pub circuits_cut: u64,
}

impl Relay {
    /// A relay that nobody is connected to, and that announces no address yet. Without `peer_stats` it
    /// does not keep who moves how much; without `access` everybody may reserve and connect.
    pub fn new(
        keypair: Keypair,
        limits: Limits,
        pseudonyms: Pseudonyms,
        lifecycle: Lifecycle,
        metrics: Metrics,
        peer_stats: Option<Arc<PeerStats>>,
        access: Option<Arc<dyn Access>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer_id: keypair.public().to_peer_id(),
            keypair,
            lifecycle,
            pseudonyms,
            ledger: Mutex::new(Ledger::new(limits.clone())),
            request_limiters: RequestLimiters::new(&limits),
            log_throttle: LogThrottle::new(),
            bandwidth_limiter: BandwidthLimiter::new(&limits.bandwidth),
            limits,
            access,
            addresses: RwLock::default(),
            first_reservation: Notify::new(),
            circuit_ended: Notify::new(),
            streams: AtomicU64::new(0),
            metrics,
            peer_stats,
            traffic: Traffic::default(),
            opened: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        })
    }

    /// The relay's own peer id.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// What the relay does at this moment and has done so far.
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

    /// The addresses that answers carry, each ending in `/p2p/<relay>`.
    pub fn addresses(&self) -> Arc<[Multiaddr]> {
        Arc::clone(
            &self
                .addresses
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Sets the addresses that answers carry, the most important first. Those that would make an
    /// answer too long for clients are left out; gives the number that is left.
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

    /// Whether `peer` has a direct connection that comes from `ip`.
    pub fn is_connected_from(&self, peer: &PeerId, ip: IpAddr) -> bool {
        let from = |connection: &Arc<Connection>| {
            connection
                .ip
                .is_some_and(|other| other.to_canonical() == ip.to_canonical())
        };
        self.ledger().any_connection(peer, from)
    }

    /// From now on no newcomer may reserve, and what holders are granted ends at `deadline`.
    pub fn drain(&self, deadline: Instant) {
        self.ledger().drain(deadline);
    }

    /// How many direct connections `peer` has.
    pub fn connections_of(&self, peer: &PeerId) -> usize {
        self.ledger().connections_of(peer)
    }

    /// Every direct connection, in no order.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.ledger().connections().cloned().collect()
    }

    /// Circuits that were accepted and whose end is not in the log yet.
    pub fn open_circuits(&self) -> u64 {
        let ended = self.finished.load(Ordering::Acquire) + self.cut.load(Ordering::Acquire);
        self.opened.load(Ordering::Acquire).saturating_sub(ended)
    }

    /// Waits until a circuit has ended since the last call.
    pub async fn circuit_ended(&self) {
        self.circuit_ended.notified().await;
    }

    /// The limits that the relay enforces.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Ends reservations as they expire. Runs until the relay stops.
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
            // The books are not held while the event is logged.
            let Some(ended) = self.ledger().expire(now) else {
                return;
            };
            events::reservation_ended(self, ended, "expired");
        }
    }

    /// The bytes that circuits have carried.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What holds circuits to their bandwidth, if that is limited.
    pub fn bandwidth_limiter(&self) -> Option<&Arc<BandwidthLimiter>> {
        self.bandwidth_limiter.as_ref()
    }

    /// Who moves how much, if that is kept.
    pub fn peer_stats(&self) -> Option<&Arc<PeerStats>> {
        self.peer_stats.as_ref()
    }

    /// What each of these peers has here now.
    pub fn peer_states(&self, peers: impl Iterator<Item = PeerId>) -> Vec<PeerState> {
        let ledger = self.ledger();
        peers.map(|peer| ledger.peer_state(&peer)).collect()
    }

    /// The connections to be closed when memory has run out, at most `count`: those without a
    /// reservation and a circuit; or if there are none, those of address prefixes beyond their share,
    /// with a circuit or without; or if there are none of these either and `holders` may be closed,
    /// some without a circuit. The newest of the address prefixes that are furthest beyond their share
    /// come first.
    pub(crate) fn connections_to_shed(
        &self,
        count: usize,
        holders: bool,
        shares: &Shares,
    ) -> Vec<ConnectionId> {
        let ledger = self.ledger();
        let mut usage = Usage::default();
        for connection in ledger.connections() {
            usage.add(connection.ip);
        }
        let beyond = usage.beyond_share(usage.total(), shares);
        let without_circuit = ledger.connections().filter(|c| !c.is_busy());
        let (holding, idle): (Vec<_>, Vec<_>) =
            without_circuit.partition(|c| c.holds_reservation());
        let is_beyond = |c: &&Arc<Connection>| excess(c.ip, &beyond).is_some();
        let beyond_share: Vec<_> = ledger.connections().filter(is_beyond).collect();
        let (mut some, count) = if !idle.is_empty() {
            (idle, count)
        } else if !beyond_share.is_empty() {
            (beyond_share, count)
        } else if holders {
            let part = holding.len().div_ceil(SHED_DIVISOR);
            (holding, count.min(part))
        } else {
            return Vec::new();
        };
        some.sort_unstable_by_key(|c| Reverse((excess(c.ip, &beyond), c.id)));
        some.truncate(count);
        some.into_iter().map(|connection| connection.id).collect()
    }

    /// The newest direct connection without a reservation and without a circuit of the prefix that is
    /// furthest beyond its share, among those that `may_close` admits.
    pub(crate) fn newest_unused_connection(
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

    /// The use of reservations and circuits.
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

    /// The names under which peers appear.
    pub fn pseudonyms(&self) -> &Pseudonyms {
        &self.pseudonyms
    }

    /// The lines of the log about what is refused.
    pub(crate) fn log_throttle(&self) -> &LogThrottle {
        &self.log_throttle
    }

    /// Whether a request to reserve comes within the rates. One to renew always does: a flood must
    /// not take away what a peer has.
    pub(super) fn check_reserve_rate(&self, connection: &Connection) -> Result<(), DenyReason> {
        let is_limited = self.request_limiters.limits_reservations();
        if is_limited && !self.ledger().is_reserved(&connection.peer, now()) {
            return self.request_limiters.reserve(connection);
        }
        Ok(())
    }

    /// Whether a request for a circuit comes within the rates.
    pub(super) fn check_connect_rate(&self, connection: &Connection) -> Result<(), DenyReason> {
        self.request_limiters.connect(connection)
    }

    /// Who says which requests are granted; nothing when all are.
    pub(super) fn access(&self) -> Option<&dyn Access> {
        self.access.as_deref()
    }

    pub(super) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    pub(super) fn circuit_limit(&self) -> CircuitLimit {
        self.limits.circuit
    }

    pub(super) fn next_stream_number(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Enters a direct connection into the books, for as long as the guard lives. A relayed one
    /// is not entered: nothing is ever relayed over it.
    pub(super) fn register(self: &Arc<Self>, connection: Arc<Connection>) -> Registration {
        if !connection.is_relayed() {
            self.ledger()
                .connected(connection.peer, Arc::clone(&connection));
        }
        Registration::new(Arc::clone(self), connection)
    }

    /// Reserves or renews a slot. The guard takes a new reservation back unless it is kept.
    pub(super) fn reserve(
        self: &Arc<Self>,
        connection: &Connection,
    ) -> Result<ReservationGuard, DenyReason> {
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
        events::reservation_accepted(self, connection.peer, grant.renews_after, ttl);
        Ok(ReservationGuard::new(
            Arc::clone(self),
            connection.peer,
            grant,
        ))
    }

    /// The grant of a moment ago that an early renewal repeats, if there is one.
    pub(super) fn recent_grant(&self, connection: &Connection) -> Option<Grant> {
        self.ledger().repeat(now(), connection.peer, connection.id)
    }

    /// The grant that a renewal repeats when it cannot be decided now.
    pub(super) fn existing_grant(&self, connection: &Connection) -> Option<Grant> {
        self.ledger().existing(now(), connection.peer)
    }

    /// Repeats a [recent](Self::recent_grant) or [existing](Self::existing_grant) grant. Nothing is renewed by that.
    pub(super) fn repeat(
        self: &Arc<Self>,
        connection: &Connection,
        grant: Grant,
    ) -> ReservationGuard {
        events::reservation_repeated(self, connection.peer);
        ReservationGuard::new(Arc::clone(self), connection.peer, grant)
    }

    /// Takes a slot for a circuit that begins on `connection`, and gives the target's connections
    /// in the order to try them.
    pub(super) fn connect(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        target: PeerId,
    ) -> Result<(CircuitPermit, Vec<Arc<Connection>>), DenyReason> {
        let state = Arc::new(CircuitState::default());
        let source = (connection.peer, connection.ip);
        let (number, connections) = self.ledger().connect(now(), source, target, &state)?;
        let permit = CircuitPermit::new(Arc::clone(self), connection, target, number, state);
        Ok((permit, connections))
    }

    /// A circuit is open.
    pub(super) fn count_opened(&self) {
        self.opened.fetch_add(1, Ordering::AcqRel);
    }

    /// A circuit that was open has ended, and that is in the log.
    pub(super) fn count_ended(&self, end: EndReason) {
        let total = if end == EndReason::Drained {
            &self.cut
        } else {
            &self.finished
        };
        total.fetch_add(1, Ordering::AcqRel);
        self.notify_circuit_ended();
    }

    /// A circuit's slot is free.
    pub(super) fn notify_circuit_ended(&self) {
        self.circuit_ended.notify_one();
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger<Arc<Connection>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock of the books; the one that paused tests move.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
