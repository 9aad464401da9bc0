//! A connection of a peer to the relay, as the hop and stop protocols use it.

use std::{
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hashlink::LinkedHashMap;
use libp2p::{Multiaddr, PeerId, Stream, multiaddr::Protocol, swarm::ConnectionId};
use resource_manager::ip_of;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    circuit_count::{CircuitCount, Opened},
    ledger,
    request_shaper::RequestShaper,
};

/// Hop streams of one connection that may await their request, or be delayed by the shaping of
/// RESERVE, at once. A further stream resets the oldest of them, so that streams without a request
/// cannot block new requests.
pub const MAX_STREAMS_AWAITING_REQUEST: usize = 64;
/// STOP streams of one connection that may be queued for opening at once.
const MAX_PENDING_STOPS: usize = 64;

/// Transport of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// QUIC.
    Quic,
    /// WebSocket over TCP.
    WebSocket,
    /// In-memory transport, for tests only.
    Memory,
    /// A circuit through another relay.
    Relayed,
}

impl Transport {
    /// All variants, in declaration order.
    pub const ALL: [Self; 5] = [
        Self::Tcp,
        Self::Quic,
        Self::WebSocket,
        Self::Memory,
        Self::Relayed,
    ];

    /// A short, stable name for logs and metrics.
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

/// Reply to a request for a STOP stream: the stream, or `None` if it could not be opened.
pub type StopReply = oneshot::Sender<Option<Stream>>;

/// A live connection. Its handler owns the receiving ends.
#[derive(Debug)]
pub struct Connection {
    /// The authenticated remote peer.
    pub peer: PeerId,
    /// Id of the connection in the swarm.
    pub id: ConnectionId,
    /// The remote IP address, if the transport has one.
    pub ip: Option<IpAddr>,
    /// The transport.
    pub transport: Transport,
    holds_reservation: AtomicBool,
    evicted: AtomicBool,
    circuits: Mutex<CircuitCount>,
    last_active: Mutex<Instant>,
    reserve_shaper: Mutex<RequestShaper>,
    closed: CancellationToken,
    stops: mpsc::Sender<StopReply>,
    awaiting_request: Mutex<LinkedHashMap<u64, oneshot::Sender<()>>>,
}

impl Connection {
    /// Creates a connection of `peer` at `remote`, and the receiver of its requests for STOP
    /// streams, which its handler serves. `local` is the local address of an inbound connection;
    /// only this address reveals that the connection is relayed.
    pub fn new(
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
            circuits: Mutex::default(),
            last_active: Mutex::new(Instant::now()),
            reserve_shaper: Mutex::default(),
            closed: CancellationToken::new(),
            stops,
            awaiting_request: Mutex::default(),
        };
        (connection, requests)
    }

    /// Whether the peer's reservation is held on this connection. If so, the connection is kept
    /// alive.
    pub fn holds_reservation(&self) -> bool {
        self.holds_reservation.load(Ordering::Acquire)
    }

    /// Cancelled when the connection is closed.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Marks the connection as being closed in favour of another one. Returns `false` if it was
    /// marked before.
    pub fn evict(&self) -> bool {
        !self.evicted.swap(true, Ordering::AcqRel)
    }

    /// Whether the connection may be evicted: it has neither a reservation nor a circuit, and is
    /// not being closed already.
    pub fn is_unused(&self) -> bool {
        !self.holds_reservation() && !self.is_busy() && !self.evicted.load(Ordering::Acquire)
    }

    /// Whether a circuit that is open or being opened uses the connection.
    pub fn is_busy(&self) -> bool {
        lock(&self.circuits).is_busy()
    }

    /// When the last circuit on the connection ended, if there was one.
    pub fn last_circuit_ended(&self) -> Option<Instant> {
        lock(&self.circuits).last_ended()
    }

    /// Records that a drain closes the connection in its next moment without a circuit. From then
    /// on, it takes further circuits only while one that was opened before is open.
    pub fn drain(&self) {
        lock(&self.circuits).turn_has_come();
    }

    /// Whether the connection takes further circuits.
    pub(super) fn is_accepting_circuits(&self) -> bool {
        lock(&self.circuits).is_accepting()
    }

    /// Counts a circuit that uses the connection; `None` if it takes no further one.
    pub(crate) fn open_circuit(&self) -> Option<Opened> {
        lock(&self.circuits).open()
    }

    /// Removes a circuit from the count.
    pub(crate) fn close_circuit(&self, opened: Opened) {
        lock(&self.circuits).close(opened, Instant::now());
    }

    /// When the peer last sent data that proves the connection alive: a request, an answer to STOP,
    /// or data of a circuit. Initially, when the connection was established.
    pub fn last_active(&self) -> Instant {
        *lock(&self.last_active)
    }

    /// Records a request, an answer to STOP, or data of a circuit.
    pub(super) fn record_activity(&self, now: Instant) {
        *lock(&self.last_active) = now;
    }

    /// Counts a RESERVE, and returns how long it has to be delayed.
    pub(super) fn reserve_delay(&self, now: Instant) -> Duration {
        lock(&self.reserve_shaper).delay(now)
    }

    /// Whether the connection is a circuit through another relay.
    pub fn is_relayed(&self) -> bool {
        self.transport == Transport::Relayed
    }

    /// Opens a stream of the stop protocol. `None` if this fails or takes longer than `timeout`.
    pub async fn open_stop(&self, timeout: Duration) -> Option<Stream> {
        let (reply, stream) = oneshot::channel();
        tokio::time::timeout(timeout, async {
            self.stops.send(reply).await.ok()?;
            stream.await.ok()?
        })
        .await
        .ok()?
    }

    /// Registers a hop stream that awaits its request. The receiver fires when newer streams evict
    /// it.
    pub(super) fn await_request(&self, number: u64) -> oneshot::Receiver<()> {
        let (evict, evicted) = oneshot::channel();
        let mut awaiting = lock(&self.awaiting_request);
        awaiting.insert(number, evict);
        if awaiting.len() > MAX_STREAMS_AWAITING_REQUEST
            && let Some((_, oldest)) = awaiting.pop_front()
        {
            // The stream may have ended on its own in the meantime.
            let _ = oldest.send(());
        }
        evicted
    }

    /// Removes a hop stream that has received its request or has ended.
    pub(super) fn request_received(&self, number: u64) {
        lock(&self.awaiting_request).remove(&number);
    }
}

/// Activity of a peer on one circuit. It is recorded on the connection at most once a second.
#[derive(Debug)]
pub(super) struct CircuitActivity<'a> {
    connection: &'a Connection,
    opened: Instant,
    /// The second of the last record, counted from 1.
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

    /// Records data of the peer.
    pub(super) fn record(&self, now: Instant) {
        let second = now.saturating_duration_since(self.opened).as_secs() + 1;
        if self.noted.load(Ordering::Relaxed) != second {
            self.noted.store(second, Ordering::Relaxed);
            self.connection.record_activity(now);
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

    fn accepts_circuits(&self) -> bool {
        self.is_accepting_circuits()
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
