//! The attacks, in a separate process. Each one continues until the process is stopped, and retries
//! everything that the relay closes or refuses.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use circuit_relay::wire::HOP_PROTOCOL;
use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, identity::Keypair};
use serde::{Deserialize, Serialize};
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use test_support::{
    process::socket,
    raw::{Raw, Requester, Streams, accept, connect, reserve},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    runtime::{Builder, Handle},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    network::Addresses,
    role::{Input, emit},
};

const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
/// The default limit of reservations and circuits for an address or peer.
const RESERVATIONS_PER_ADDRESS: usize = 64;
const CIRCUITS_PER_PEER: usize = 5;
/// Time limit for the setup of an attack.
pub(crate) const SETUP: Duration = Duration::from_secs(15);
/// Maximum number of concurrent dials of one attack.
const DIALS: usize = 32;
/// Delay after a failed attempt.
const RETRY: Duration = Duration::from_millis(200);
/// Timeout of an attempt.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The socket type of raw sockets on Linux, for handwritten UDP headers.
const SOCK_RAW: i32 = 3;
/// Receive buffer size of attackers that do not read, in bytes.
const SMALL_BUFFER: u32 = 4096;
/// QUIC flow-control window of attackers that do not read, in bytes: enough for a response.
const WINDOW: u32 = 1024;
/// How long sockets are left unread at a time, between two short periods of reading.
const UNREAD_PERIOD: Duration = Duration::from_secs(8);
const THAWED: Duration = Duration::from_secs(6);
/// Interval between two reports of the counts.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// The kinds of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Attack {
    /// Circuits whose ends send and never read, with two ping streams on each connection.
    UnreadOverQuic,
    /// As above, but targets do not read their sockets either, so they acknowledge nothing.
    UnacknowledgedOverQuic,
    /// As above, over TCP with small socket buffers.
    UnreadOverTcp,
    /// As above, over WebSocket with sockets that are read.
    UnreadOverWebsocket,
    /// The maximum number of circuits between reserved peers of the attackers, without data.
    Circuits,
    /// The maximum number of circuits to each ordinary peer, without data.
    CircuitsToTargets,
    /// Connections kept alive by a hop stream.
    Connections,
    /// WebSocket connections that announce a frame and do not send it.
    WebsocketFrames,
    /// TCP connections without a security handshake.
    TcpHandshakes,
    /// QUIC handshakes that are started and not continued.
    QuicHandshakes,
    /// Reservations over IPv6.
    Reservations,
    /// Continuous renewals of a few reservations.
    Renewals,
    /// Requests to the admin endpoints whose responses are not read.
    AdminRequests,
    /// QUIC packets whose source address cannot be replied to.
    UnanswerablePackets,
    /// Circuits to a peer with three dead connections and one live one.
    DeadConnections,
}

/// An attack and its parameters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attacker {
    pub(crate) attack: Attack,
    pub(crate) addresses: Addresses,
    /// Number of source addresses.
    pub(crate) sources: usize,
    /// Peer ids of ordinary peers with a reservation.
    pub(crate) targets: Vec<String>,
}

/// Counters of the attack.
#[derive(Debug, Default)]
struct Counts {
    attempts: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
    /// Number of connections, reservations or circuits currently open.
    held: AtomicU64,
    most_held: AtomicU64,
    /// Value of `held` at which setup is complete, if it is reached in time.
    goal: AtomicU64,
    began: OnceLock<Instant>,
}

impl Counts {
    /// Waits until `held` has reached the goal, or the setup time is over.
    async fn wait_for_setup(&self) {
        let began = *self.began.get_or_init(Instant::now);
        let is_held = || {
            let most = self.most_held.load(Ordering::Relaxed);
            most >= self.goal.load(Ordering::Relaxed)
        };
        while !is_held() && began.elapsed() < SETUP {
            sleep(RETRY).await;
        }
    }

    fn hold(self: &Arc<Self>) -> Held {
        let held = self.held.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_held.fetch_max(held, Ordering::Relaxed);
        Held(Arc::clone(self))
    }

    fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn emit(&self) {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        emit(&json!({
            "event": "attack",
            "attempts": value(&self.attempts),
            "failures": value(&self.failures),
            "bytes": value(&self.bytes),
            "held": value(&self.held),
            "most_held": value(&self.most_held),
            "goal": value(&self.goal),
        }));
    }
}

/// An open connection, reservation or circuit; counted in `held` until dropped.
struct Held(Arc<Counts>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A running attack.
struct RunningAttack {
    attacker: Attacker,
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

/// Attacks until the input ends, and reports the counts periodically.
pub(crate) async fn run(attacker: Attacker, mut input: Input) {
    let counts = Arc::new(Counts::default());
    let mut running = RunningAttack {
        attacker,
        counts: Arc::clone(&counts),
        tasks: JoinSet::new(),
    };
    running.begin();
    let mut ticks = interval(REPORT_INTERVAL);
    loop {
        tokio::select! {
            () = input.end() => break,
            // Tasks run until they are aborted, unless they panic.
            Some(ended) = running.tasks.join_next() => ended.unwrap(),
            _ = ticks.tick() => counts.emit(),
        }
    }
    counts.emit();
    running.tasks.shutdown().await;
}

impl RunningAttack {
    fn begin(&mut self) {
        let Attacker {
            attack,
            addresses,
            sources,
            targets,
        } = self.attacker.clone();
        let reserved = RESERVATIONS_PER_ADDRESS * sources.min(2);
        self.counts
            .goal
            .store(goal(attack, sources, &targets), Ordering::Relaxed);
        match attack {
            Attack::UnreadOverQuic => self.unread(&addresses.quic, reserved, None),
            Attack::UnacknowledgedOverQuic => {
                self.unread(&addresses.quic, reserved, Some(frozen_runtime()));
            }
            Attack::UnreadOverTcp => self.unread(&addresses.tcp, reserved, Some(frozen_runtime())),
            Attack::UnreadOverWebsocket => self.unread(&addresses.websocket, reserved, None),
            // Enough tasks for all circuits, independent of the number of addresses.
            Attack::Circuits => {
                let pairs = (RESERVATIONS_PER_ADDRESS * sources).min(160);
                self.repeat(pairs, move |counts, _| {
                    circuits(addresses.tcp.clone(), counts)
                });
            }
            Attack::CircuitsToTargets => {
                let targets: Vec<PeerId> = targets.iter().map(|id| id.parse().unwrap()).collect();
                self.repeat(targets.len(), move |counts, number| {
                    circuits_to(addresses.tcp.clone(), targets[number], counts)
                });
            }
            Attack::Connections => self.repeat(6000, move |counts, _| {
                connection(addresses.tcp.clone(), counts)
            }),
            Attack::WebsocketFrames => self.repeat(600, move |counts, _| {
                websocket_frame(socket(&addresses.websocket), counts)
            }),
            Attack::TcpHandshakes => self.repeat(1500, move |counts, _| {
                tcp_handshake(socket(&addresses.tcp), counts)
            }),
            Attack::QuicHandshakes => self.repeat(4, move |counts, _| {
                quic_handshakes(socket(&addresses.quic), counts)
            }),
            Attack::Reservations => self.repeat(1500, move |counts, _| {
                reservation(addresses.tcp6.clone(), counts)
            }),
            Attack::Renewals => self.repeat(8 * sources, move |counts, number| {
                renewals(addresses.transport(number).clone(), counts)
            }),
            Attack::AdminRequests => {
                self.repeat(200, move |counts, _| {
                    admin_requests(addresses.admin, counts)
                });
            }
            Attack::UnanswerablePackets => self.repeat(1, move |counts, _| {
                unanswerable_packets(socket(&addresses.quic), counts)
            }),
            Attack::DeadConnections => {
                let runtime = frozen_runtime();
                self.repeat(1, move |counts, _| {
                    dead_connections(addresses.clone(), runtime.clone(), counts)
                });
            }
        }
    }

    /// Spawns this many concurrent tasks that repeat the action.
    fn repeat<F>(
        &mut self,
        number: usize,
        attempt: impl Fn(Arc<Counts>, usize) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let attempt = Arc::new(attempt);
        for number in 0..number {
            let (counts, attempt) = (Arc::clone(&self.counts), Arc::clone(&attempt));
            self.tasks.spawn(async move {
                loop {
                    counts.attempts.fetch_add(1, Ordering::Relaxed);
                    if attempt(Arc::clone(&counts), number).await.is_err() {
                        counts.failures.fetch_add(1, Ordering::Relaxed);
                        sleep(RETRY).await;
                    }
                }
            });
        }
    }

    /// Spawns pairs of peers with unread circuits. Targets run on the given runtime, if any.
    fn unread(&mut self, address: &Multiaddr, pairs: usize, targets: Option<Handle>) {
        if let Some(targets) = targets.clone() {
            let counts = Arc::clone(&self.counts);
            self.tasks.spawn(async move {
                loop {
                    counts.wait_for_setup().await;
                    sleep(THAWED).await;
                    targets.spawn(async { thread::sleep(UNREAD_PERIOD) });
                    sleep(UNREAD_PERIOD).await;
                }
            });
        }
        let address = address.clone();
        self.repeat(pairs, move |counts, _| {
            unread(address.clone(), targets.clone(), counts)
        });
    }
}

/// The number of connections, reservations or circuits to open before the measurement.
fn goal(attack: Attack, sources: usize, targets: &[String]) -> u64 {
    let reserved = RESERVATIONS_PER_ADDRESS * sources.min(2);
    let goal = match attack {
        // Leaves a small margin.
        Attack::UnreadOverQuic
        | Attack::UnacknowledgedOverQuic
        | Attack::UnreadOverTcp
        | Attack::UnreadOverWebsocket => reserved * CIRCUITS_PER_PEER / 10 * 9,
        Attack::Circuits => (RESERVATIONS_PER_ADDRESS * sources).min(90) * CIRCUITS_PER_PEER,
        Attack::CircuitsToTargets => targets.len() * CIRCUITS_PER_PEER / 2,
        Attack::WebsocketFrames | Attack::TcpHandshakes | Attack::AdminRequests => 50,
        Attack::Connections | Attack::Reservations => 500,
        Attack::Renewals | Attack::UnanswerablePackets => 1,
        Attack::QuicHandshakes | Attack::DeadConnections => 0,
    };
    goal as u64
}

/// A single-threaded runtime. A task that blocks its thread stops the reading of all its sockets.
fn frozen_runtime() -> Handle {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let handle = runtime.handle().clone();
    // The runtime lives as long as the process.
    std::mem::forget(runtime);
    handle
}

/// Applies the timeout of an attempt.
async fn limited<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let done = timeout(ATTEMPT, attempt).await;
    done.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn peer(address: &Multiaddr, streams: Streams) -> io::Result<Raw> {
    static DIALLING: Semaphore = Semaphore::const_new(DIALS);
    let _permit = DIALLING.acquire().await.map_err(io::Error::other)?;
    let connecting = async {
        let peer = Raw::try_with_streams(streams, address).await;
        peer.map_err(io::Error::other)
    };
    limited(connecting).await
}

/// A peer with a reservation.
async fn reserved(address: &Multiaddr, streams: Streams) -> io::Result<Raw> {
    let peer = peer(address, streams).await?;
    limited(peer.requester().request(&reserve())).await?;
    Ok(peer)
}

/// Writes until the stream ends. Starts when most circuits are open, because opening them under load
/// takes too long on a busy machine.
async fn write_on(mut stream: Stream, counts: Arc<Counts>) {
    counts.wait_for_setup().await;
    let chunk = vec![7; 64 * 1024];
    while let Ok(written) = stream.write(&chunk).await {
        counts.add_bytes(written);
    }
}

/// Two ping streams whose responses are not read.
async fn ping(mut requester: Requester, counts: Arc<Counts>) -> io::Result<()> {
    let streams = [requester.open(PING).await?, requester.open(PING).await?];
    join_all(streams.map(|stream| write_on(stream, Arc::clone(&counts)))).await;
    Ok(())
}

/// A source and a target that send on five circuits and do not read, until the relay has ended all
/// circuits.
async fn unread(
    address: Multiaddr,
    targets: Option<Handle>,
    counts: Arc<Counts>,
) -> io::Result<()> {
    // With the default window, a target receives megabytes before the relay is blocked.
    let streams = match targets {
        Some(_) => Streams::Usual,
        None => Streams::SmallWindow(WINDOW),
    };
    let targets = targets.unwrap_or_else(Handle::current);
    let (send, started) = tokio::sync::oneshot::channel();
    let (far_counts, far_address) = (Arc::clone(&counts), address.clone());
    // Aborted on drop.
    let mut far = JoinSet::new();
    far.spawn_on(
        async move {
            let mut target = reserved(&far_address, streams).await?;
            let _ = send.send(target.peer_id);
            let mut writing = JoinSet::new();
            writing.spawn(drop_error(ping(
                target.requester(),
                Arc::clone(&far_counts),
            )));
            while let Some(mut stream) = target.next_stop().await {
                let counts = Arc::clone(&far_counts);
                writing.spawn(async move {
                    if accept(&mut stream).await.is_ok() {
                        write_on(stream, counts).await;
                    }
                });
            }
            io::Result::Ok(())
        },
        &targets,
    );
    let reserved = timeout(2 * UNREAD_PERIOD + ATTEMPT, started).await;
    let target = reserved
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?;
    let source = peer(&address, streams).await?;
    let request = connect(&target.to_bytes());
    let mut writing = JoinSet::new();
    writing.spawn(drop_error(ping(source.requester(), Arc::clone(&counts))));
    for _ in 0..CIRCUITS_PER_PEER {
        let mut requester = source.requester();
        let (request, counts) = (request.clone(), Arc::clone(&counts));
        writing.spawn(drop_error(async move {
            let stream = limited(requester.request(&request)).await?;
            let _held = counts.hold();
            write_on(stream, Arc::clone(&counts)).await;
            Ok(())
        }));
    }
    while writing.join_next().await.is_some() {}
    Err(io::ErrorKind::ConnectionReset.into())
}

async fn hop(mut requester: Requester) -> io::Result<Stream> {
    requester.open(HOP_PROTOCOL).await
}

async fn drop_error(task: impl Future<Output = io::Result<()>>) {
    let _ = task.await;
}

/// A reserved target that accepts circuits and keeps them open, and a source that opens them.
async fn circuits(address: Multiaddr, counts: Arc<Counts>) -> io::Result<()> {
    let mut target = reserved(&address, Streams::Usual).await?;
    let id = target.peer_id;
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut streams = Vec::new();
        while let Some(mut stream) = target.next_stop().await {
            if accept(&mut stream).await.is_ok() {
                streams.push(stream);
            }
        }
    });
    circuits_to(address, id, counts).await
}

/// A source that opens the maximum number of circuits to this target and keeps them open.
async fn circuits_to(address: Multiaddr, target: PeerId, counts: Arc<Counts>) -> io::Result<()> {
    /// The relay limits the requests of a peer, so another peer takes over after this many.
    const ATTEMPTS: usize = 20;
    const PAUSE: Duration = Duration::from_millis(500);
    let source = peer(&address, Streams::Usual).await?;
    let request = connect(&target.to_bytes());
    let holding = (0..CIRCUITS_PER_PEER).map(|_| {
        let mut requester = source.requester();
        let (request, counts) = (&request, &counts);
        async move {
            for _ in 0..ATTEMPTS {
                if let Ok(mut stream) = limited(requester.request(request)).await {
                    let _held = counts.hold();
                    // Returns when the circuit ends.
                    let _ = stream.read(&mut [0]).await;
                }
                sleep(PAUSE).await;
            }
        }
    });
    join_all(holding).await;
    Err(io::ErrorKind::ConnectionReset.into())
}

/// A connection that always has a hop stream, replaced from time to time.
async fn connection(address: Multiaddr, counts: Arc<Counts>) -> io::Result<()> {
    const STREAMS: Duration = Duration::from_secs(40);
    let peer = peer(&address, Streams::Usual).await?;
    let _held = counts.hold();
    loop {
        let mut stream = limited(hop(peer.requester())).await?;
        // The relay resets streams without a request after a timeout; the end of the connection ends them
        // at once.
        let began = Instant::now();
        let _ = stream.read(&mut [0]).await;
        drop(limited(hop(peer.requester())).await?);
        sleep(STREAMS.saturating_sub(began.elapsed())).await;
    }
}

/// A connection to the WebSocket port that announces a frame and does not send it.
async fn websocket_frame(address: SocketAddr, counts: Arc<Counts>) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let _held = counts.hold();
    let upgrade = b"GET / HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade).await?;
    // The header of a masked binary frame of 256 KiB, the largest frame that the relay accepts.
    stream
        .write_all(&[0x82, 0x80 | 127, 0, 0, 0, 0, 0, 4, 0, 0, 1, 2, 3, 4])
        .await?;
    until_end(&mut stream).await
}

/// A TCP connection that sends no handshake.
async fn tcp_handshake(address: SocketAddr, counts: Arc<Counts>) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let _held = counts.hold();
    stream.write_all(b"\x13/multi").await?;
    until_end(&mut stream).await
}

/// Reads until the relay closes the connection, which counts as a failed attempt.
async fn until_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut chunk = [0; 1024];
    while stream.read(&mut chunk).await? > 0 {}
    Err(io::ErrorKind::ConnectionReset.into())
}

/// Initial packets of QUIC handshakes, each from a different port.
async fn quic_handshakes(relay: SocketAddr, counts: Arc<Counts>) -> io::Result<()> {
    // Captures the Initial packet of a quinn client on this socket, and replays it to the relay.
    let first = UdpSocket::bind("127.0.0.1:0").await?;
    let mut client = quinn::Endpoint::client("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"libp2p".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls);
    let crypto = crypto.map_err(io::Error::other)?;
    client.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let mut packet = vec![0; 2048];
    loop {
        let connecting = client.connect(first.local_addr()?, "relay");
        let connecting = connecting.map_err(io::Error::other)?;
        let length = first.recv(&mut packet).await?;
        drop(connecting);
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.send_to(&packet[..length], relay).await?;
        counts.attempts.fetch_add(1, Ordering::Relaxed);
        // Discards packets of closed connections.
        while first.try_recv(&mut packet).is_ok() {}
        sleep(Duration::from_millis(2)).await;
    }
}

/// A reservation that is kept and renewed.
async fn reservation(address: Multiaddr, counts: Arc<Counts>) -> io::Result<()> {
    const RENEWAL: Duration = Duration::from_secs(5);
    let peer = reserved(&address, Streams::Usual).await?;
    let _held = counts.hold();
    loop {
        sleep(RENEWAL).await;
        limited(peer.requester().request(&reserve())).await?;
    }
}

async fn renewals(address: Multiaddr, counts: Arc<Counts>) -> io::Result<()> {
    let peer = reserved(&address, Streams::Usual).await?;
    let _held = counts.hold();
    loop {
        limited(peer.requester().request(&reserve())).await?;
        counts.attempts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends requests without reading the responses, until writes are blocked.
async fn admin_requests(address: SocketAddr, counts: Arc<Counts>) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SMALL_BUFFER)?;
    let mut stream = socket.connect(address).await?;
    let _held = counts.hold();
    loop {
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: relay\r\n\r\n")
            .await?;
        counts.add_bytes(1);
    }
}

/// QUIC packets with an unknown version from port 0, to which no reply can be sent.
async fn unanswerable_packets(relay: SocketAddr, counts: Arc<Counts>) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let socket = Socket::new(Domain::IPV4, Type::from(SOCK_RAW), Some(Protocol::UDP))?;
    let (_held, relay_port) = (counts.hold(), relay.port());
    // Long header, version, and two connection ids of eight bytes, padded to the size of an Initial.
    let mut quic = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    quic.extend([1; 8]);
    quic.push(8);
    quic.extend([2; 8]);
    quic.resize(1200, 0);
    let mut datagram = Vec::new();
    // UDP header: source port, destination port, length, and no checksum.
    datagram.extend([0, 0]);
    datagram.extend(relay_port.to_be_bytes());
    let length = u16::try_from(8 + quic.len()).map_err(io::Error::other)?;
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(quic);
    loop {
        socket.send_to(&datagram, &SockAddr::from(SocketAddr::new(relay.ip(), 0)))?;
        counts.attempts.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
}

/// A peer with three dead connections and one live one. Circuits to it are counted as `held`.
async fn dead_connections(
    addresses: Addresses,
    frozen: Handle,
    counts: Arc<Counts>,
) -> io::Result<()> {
    const DEAD: [usize; 3] = [0, 1, 3];
    /// Other implementations give up after 10 s.
    const WITHIN: Duration = Duration::from_secs(8);
    const CIRCUITS: usize = 3;
    let key = Keypair::generate_ed25519();
    let mut live = Raw::with_key(key.clone(), &addresses.tcp).await;
    limited(live.requester().request(&reserve())).await?;
    let id = live.peer_id;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut streams = Vec::new();
        while let Some(mut stream) = live.next_stop().await {
            if accept(&mut stream).await.is_ok() {
                streams.push(stream);
            }
        }
    });
    // The dead connections are the more recent ones.
    for transport in DEAD {
        let (key, address) = (key.clone(), addresses.transport(transport).clone());
        let dead = frozen.spawn(async move {
            let peer = Raw::with_key(key, &address).await;
            let _ = limited(peer.requester().request(&reserve())).await;
            peer
        });
        // Keeps the dead connections open.
        std::mem::forget(dead.await.map_err(io::Error::other)?);
    }
    frozen.spawn(async { thread::sleep(Duration::from_secs(600)) });
    let mut streams = Vec::new();
    for _ in 0..CIRCUITS {
        let source = peer(&addresses.tcp, Streams::Usual).await?;
        let mut requester = source.requester();
        let request = connect(&id.to_bytes());
        let opening = timeout(WITHIN, requester.request(&request));
        counts.attempts.fetch_add(1, Ordering::Relaxed);
        match opening.await {
            Ok(Ok(stream)) => streams.push((source, stream, counts.hold())),
            _ => {
                counts.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    std::future::pending().await
}
