//! A connection of a peer to the relay, as the protocol sees it.

use std::{
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashlink::LinkedHashMap;
use libp2p::{Multiaddr, PeerId, Stream, multiaddr::Protocol, swarm::ConnectionId};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{ledger, request_shaper::RequestShaper};
use crate::transport::ip_of;

/// Hop streams of one connection that may be silent, or wait for the pace of RESERVE, at once. One
/// more resets the oldest of them: streams that say nothing cannot keep out those that do.
pub const MAX_STREAMS_AWAITING_REQUEST: usize = 64;
/// STOP streams that may wait to be opened on one connection at once.
const MAX_PENDING_STOPS: usize = 64;

/// Over which transport a peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// QUIC.
    Quic,
    /// WebSocket.
    WebSocket,
    /// In memory; tests only.
    Memory,
    /// A circuit of another relay.
    Relayed,
}

impl Transport {
    /// All of them, in the order of their numbers.
    pub(super) const ALL: [Self; 5] = [
        Self::Tcp,
        Self::Quic,
        Self::WebSocket,
        Self::Memory,
        Self::Relayed,
    ];

    /// A short, stable word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
            Self::Memory => "memory",
            Self::Relayed => "relayed",
        }
    }
}

/// Answers a request for a STOP stream: the stream, or nothing when it could not be opened.
pub(crate) type StopReply = oneshot::Sender<Option<Stream>>;

/// A live connection. Its handler owns the other ends.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: PeerId,
    /// Identifies the connection in the swarm.
    pub id: ConnectionId,
    /// The IP address that the peer connects from, when the transport has one.
    pub ip: Option<IpAddr>,
    /// Over what.
    pub transport: Transport,
    holds_reservation: AtomicBool,
    evicted: AtomicBool,
    circuits: AtomicUsize,
    last_circuit_ended: Mutex<Option<Instant>>,
    last_active: Mutex<Instant>,
    reserve_shaper: Mutex<RequestShaper>,
    gone: CancellationToken,
    stops: mpsc::Sender<StopReply>,
    awaiting_request: Mutex<LinkedHashMap<u64, oneshot::Sender<()>>>,
}

impl Connection {
    /// A connection of `peer` whose other end is at `remote`, and the requests for STOP streams
    /// that its handler has to serve. `local` is the address that the peer came in on, if it did
    /// come in: over a circuit, that one alone says so.
    pub(crate) fn new(
        peer: PeerId,
        id: ConnectionId,
        local: Option<&Multiaddr>,
        remote: &Multiaddr,
    ) -> (Self, mpsc::Receiver<StopReply>) {
        let (stops, requests) = mpsc::channel(MAX_PENDING_STOPS);
        let connection = Self {
            peer,
            id,
            ip: ip_of(remote),
            transport: match local.map(transport_of) {
                Some(Transport::Relayed) => Transport::Relayed,
                _ => transport_of(remote),
            },
            holds_reservation: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            circuits: AtomicUsize::new(0),
            last_circuit_ended: Mutex::default(),
            last_active: Mutex::new(Instant::now()),
            reserve_shaper: Mutex::default(),
            gone: CancellationToken::new(),
            stops,
            awaiting_request: Mutex::default(),
        };
        (connection, requests)
    }

    /// Whether the peer's reservation is held on this connection, which keeps it open.
    pub fn holds_reservation(&self) -> bool {
        self.holds_reservation.load(Ordering::Acquire)
    }

    /// Cancelled when the connection is gone.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// The connection is closed to make room for another one. `false` if that was so before.
    pub(crate) fn evict(&self) -> bool {
        !self.evicted.swap(true, Ordering::AcqRel)
    }

    /// Whether it may be closed to make room: it has neither a reservation nor a circuit, and is not
    /// being closed already.
    pub fn is_unused(&self) -> bool {
        !self.holds_reservation() && !self.is_busy() && !self.evicted.load(Ordering::Acquire)
    }

    /// Whether a circuit that is open or being opened runs over it.
    pub fn is_busy(&self) -> bool {
        self.circuits.load(Ordering::Acquire) > 0
    }

    /// A circuit runs over it from now on.
    pub(crate) fn circuit_started(&self) {
        self.circuits.fetch_add(1, Ordering::AcqRel);
    }

    /// When the last circuit that ran over it has ended, if there was one.
    pub fn last_circuit_ended(&self) -> Option<Instant> {
        *lock(&self.last_circuit_ended)
    }

    /// A circuit that ran over it has ended.
    pub(crate) fn circuit_stopped(&self) {
        *lock(&self.last_circuit_ended) = Some(Instant::now());
        self.circuits.fetch_sub(1, Ordering::AcqRel);
    }

    /// When the peer last sent something that shows the connection to be alive: a request, an answer
    /// to STOP, or bytes of a circuit; else when the connection came up.
    pub fn last_active(&self) -> Instant {
        *lock(&self.last_active)
    }

    /// The peer has sent a request, an answer to STOP, or bytes of a circuit.
    pub(crate) fn note_activity(&self, now: Instant) {
        *lock(&self.last_active) = now;
    }

    /// Counts a RESERVE that the peer has sent, and gives how long it has to wait for its turn.
    pub(super) fn reserve_delay(&self, now: Instant) -> Duration {
        lock(&self.reserve_shaper).delay(now)
    }

    /// Whether it is itself a circuit of another relay.
    pub fn is_relayed(&self) -> bool {
        self.transport == Transport::Relayed
    }

    /// Opens a stream for the stop protocol. `None` when that cannot be done or takes longer
    /// than `timeout`.
    pub async fn open_stop(&self, timeout: Duration) -> Option<Stream> {
        let (reply, stream) = oneshot::channel();
        tokio::time::timeout(timeout, async {
            self.stops.send(reply).await.ok()?;
            stream.await.ok()?
        })
        .await
        .ok()?
    }

    /// A new hop stream waits for its request under this number. The receiver fires when the
    /// stream must make room for a newer one.
    pub(super) fn await_request(&self, number: u64) -> oneshot::Receiver<()> {
        let (evict, evicted) = oneshot::channel();
        let mut awaiting = lock(&self.awaiting_request);
        awaiting.insert(number, evict);
        if awaiting.len() > MAX_STREAMS_AWAITING_REQUEST
            && let Some((_, oldest)) = awaiting.pop_front()
        {
            // It may have ended by itself just now.
            let _ = oldest.send(());
        }
        evicted
    }

    /// The hop stream of this number has made its request, or has ended.
    pub(super) fn request_received(&self, number: u64) {
        lock(&self.awaiting_request).remove(&number);
    }
}

/// The activity of a peer within one circuit, noted on its connection once a second at most.
#[derive(Debug)]
pub(super) struct CircuitActivity<'a> {
    connection: &'a Connection,
    opened: Instant,
    /// The second in which it was noted last, counted from 1.
    noted: AtomicU64,
}

impl<'a> CircuitActivity<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            opened: Instant::now(),
            noted: AtomicU64::new(0),
        }
    }

    /// Bytes of the peer have come by `now`.
    pub(super) fn note(&self, now: Instant) {
        let second = now.saturating_duration_since(self.opened).as_secs() + 1;
        if self.noted.load(Ordering::Relaxed) != second {
            self.noted.store(second, Ordering::Relaxed);
            self.connection.note_activity(now);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ledger::Connection for std::sync::Arc<Connection> {
    fn id(&self) -> ConnectionId {
        self.id
    }

    fn set_holds_reservation(&self, holds: bool) {
        self.holds_reservation.store(holds, Ordering::Release);
    }
}

fn transport_of(address: &Multiaddr) -> Transport {
    let mut transport = Transport::Tcp;
    for part in address {
        match part {
            Protocol::P2pCircuit => return Transport::Relayed,
            Protocol::QuicV1 => transport = Transport::Quic,
            Protocol::Ws(_) | Protocol::Wss(_) => transport = Transport::WebSocket,
            Protocol::Memory(_) => transport = Transport::Memory,
            _ => {}
        }
    }
    transport
}
