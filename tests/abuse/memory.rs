//! Peers that make the relay buffer data, over TCP and WebSocket. Expected: memory stays below the limit,
//! ordinary clients are served, and idle reservations are kept.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use circuit_relay::wire::{self, HopMessage, Status};
use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
    future::{join, join_all},
};
use libp2p::{Multiaddr, PeerId, identity::Keypair};
use serde_json::Value;
use test_support::{
    PATIENCE,
    client::{self, Client},
    http, ordinary_clients,
    process::{Relay, socket},
    raw::{Raw, assert_status, connect},
};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::compat::TokioAsyncReadCompatExt;
use transports::noise;

use crate::dialler::{Duplex, Security, dial, line, negotiate, secured};

const MIB: usize = 1024 * 1024;
/// A write without progress for this long counts as blocked.
const BLOCKED: Duration = Duration::from_secs(2);
/// Number of ordinary peers with an idle reservation.
const IDLE_RESERVATIONS: usize = 16;

/// A relay with a memory limit, and ordinary peers with a reservation on it.
struct Limited {
    relay: Relay,
    limit: usize,
    idle: Vec<Raw>,
    peak: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    sampler: thread::JoinHandle<()>,
}

impl Limited {
    async fn start(mebibytes: usize) -> Self {
        let limit = format!("{mebibytes}MiB");
        let relay = Relay::start(&[
            ("RELAY_MAX_MEMORY", &limit),
            ("RELAY_IDLE_TIMEOUT", "1h"),
            ("RELAY_STATS_INTERVAL", "1s"),
            ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
            ("RELAY_MAX_CIRCUITS_PER_PEER", "0"),
            ("RELAY_RATE_CONNECTIONS_PER_IP", "0"),
            ("RELAY_RATE_RESERVATIONS_PER_IP", "0"),
            ("RELAY_RATE_CIRCUITS_PER_IP", "0"),
            ("RELAY_MAX_RESERVATIONS_PER_IP", "0"),
        ])
        .await;
        let address = relay.tcp();
        let idle = join_all((0..IDLE_RESERVATIONS).map(async |_| {
            let mut peer = Raw::new(&address).await;
            assert_status(&peer.reserve().await, Status::Ok);
            peer
        }))
        .await;
        let (peak, is_over) = (Arc::default(), Arc::default());
        let sampler = sample(relay.id(), Arc::clone(&peak), Arc::clone(&is_over));
        Self {
            relay,
            limit: mebibytes * MIB,
            idle,
            peak,
            is_over,
            sampler,
        }
    }

    /// Asserts that new connections are accepted and ordinary clients served during the attack. A second
    /// attempt is allowed, because memory may be short during the first.
    async fn assert_serves(&self) {
        for address in [self.relay.tcp(), self.relay.websocket()] {
            self.wait_until_accepting().await;
            let again = address.clone();
            let mut clients = JoinSet::new();
            clients.spawn(async move { ordinary_clients::time_to_serve(&address).await });
            if clients
                .join_next()
                .await
                .is_none_or(|served| served.is_err())
            {
                self.wait_until_accepting().await;
                ordinary_clients::time_to_serve(&again).await;
            }
        }
    }

    /// Waits until new connections are accepted.
    async fn wait_until_accepting(&self) {
        let is_accepting = |status: &Value| status["memory"]["is_short"] == false;
        http::json_where(&self.relay, "/status", is_accepting).await;
    }

    /// Asserts that memory stayed below the limit, and that no idle reservation was lost.
    async fn assert_withstood(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.sampler.join().unwrap();
        let peak = self.peak.load(Ordering::Relaxed);
        println!("at most {} of {} MiB", peak / MIB, self.limit / MIB);
        assert!(peak < self.limit, "{peak} bytes of {}", self.limit);
        for peer in &mut self.idle {
            assert_status(&peer.reserve().await, Status::Ok);
        }
        drop(self.idle);
        self.relay.assert_unharmed().await;
    }
}

/// Samples the memory of a process until `is_over`, on a dedicated thread.
fn sample(
    process: u32,
    peak: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            let statm = std::fs::read_to_string(format!("/proc/{process}/statm"));
            let Some(pages) = statm.ok().and_then(|statm| {
                // Excludes file-backed pages, which the kernel reclaims under memory pressure.
                let mut pages = statm
                    .split(' ')
                    .skip(1)
                    .map_while(|pages| pages.parse().ok());
                let (resident, shared): (usize, usize) = (pages.next()?, pages.next()?);
                Some(resident - shared)
            }) else {
                return;
            };
            peak.fetch_max(pages * 4096, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
    })
}

/// Circuit targets that stop reading from their streams and sockets.
struct Frozen {
    peers: Vec<PeerId>,
    /// Runs the targets until a message arrives, when their circuits are open.
    freeze: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
    end: mpsc::Sender<()>,
}

impl Frozen {
    fn start(number: usize, security: client::Security, address: Multiaddr) -> Self {
        let (freeze, frozen) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let (peers, reserved) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let targets = runtime.block_on(async {
                let mut targets = Vec::new();
                for _ in 0..number {
                    let mut target = Client::new(security).await;
                    target.reserve(&address).await.unwrap();
                    peers.send(target.peer_id).unwrap();
                    targets.push(target.run());
                }
                drop(peers);
                while frozen.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    sleep(Duration::from_millis(10)).await;
                }
                targets
            });
            // Blocks the runtime, so no socket is read.
            let _ = ended.recv();
            drop(targets);
        });
        Self {
            peers: reserved.iter().collect(),
            freeze,
            thread,
            end,
        }
    }

    fn freeze(&self) {
        self.freeze.send(()).unwrap();
    }

    fn end(self) {
        drop(self.end);
        self.thread.join().unwrap();
    }
}

/// Sources that send on circuits whose targets do not read.
async fn circuits_to_frozen_targets(
    mebibytes: usize,
    security: client::Security,
    address: fn(&Relay) -> Multiaddr,
) {
    const TARGETS: usize = 48;
    const EACH: usize = 5;
    let limited = Limited::start(mebibytes).await;
    let address = address(&limited.relay);
    let targets = Frozen::start(TARGETS, security, address.clone());
    let mut sources = Vec::new();
    let mut circuits = Vec::new();
    for target in &targets.peers {
        let mut source = Client::new(security).await;
        source.dial(&address).await;
        let mut streams = source.streams.clone();
        sources.push(source.run());
        for _ in 0..EACH {
            let opened = async {
                let relay = limited.relay.peer_id;
                let stream = streams.open_stream(relay, wire::HOP_PROTOCOL).await;
                let mut stream = stream.unwrap();
                stream.write_all(&connect(&target.to_bytes())).await?;
                stream.flush().await?;
                let answer: HopMessage = wire::read(&mut stream).await.map_err(io::Error::other)?;
                assert_status(&answer, Status::Ok);
                io::Result::Ok(stream)
            };
            circuits.push(timeout(PATIENCE, opened).await.unwrap().unwrap());
        }
    }
    targets.freeze();
    let chunk = vec![7; 64 * 1024];
    let flood = join_all(circuits.iter_mut().map(async |circuit| {
        while let Ok(Ok(())) = timeout(BLOCKED, circuit.write_all(&chunk)).await {}
    }));
    join(flood, limited.assert_serves()).await;
    limited.assert_serves().await;
    drop(circuits);
    for source in sources {
        source.abort();
    }
    targets.end();
    limited.assert_withstood().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_circuits_over_tcp() {
    circuits_to_frozen_targets(128, client::Security::Noise, Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_circuits_over_tls() {
    circuits_to_frozen_targets(128, client::Security::Tls, Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_circuits_over_websocket() {
    circuits_to_frozen_targets(256, client::Security::Noise, Relay::websocket).await;
}

/// Negotiates a protocol; fails if the relay closes the connection.
async fn try_negotiate(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    protocol: &str,
) -> io::Result<()> {
    let wanted = [line("/multistream/1.0.0"), line(protocol)].concat();
    socket.write_all(&wanted).await?;
    socket.flush().await?;
    let mut answer = vec![0; wanted.len()];
    socket.read_exact(&mut answer).await
}

/// A connection with a muxer that sends only a part of a Noise frame. The relay may refuse it, or close
/// it to free memory.
async fn with_incomplete_frame(relay: &Relay) -> io::Result<Box<dyn Duplex>> {
    const SENT: usize = 65_000;
    let mut socket = TcpStream::connect(socket(&relay.tcp())).await?.compat();
    try_negotiate(&mut socket, "/noise").await?;
    let keys = noise::Keys::new(&Keypair::generate_ed25519()).unwrap();
    let secured = noise::dial(keys, &mut socket).await;
    let (_, mut channel) = secured.map_err(io::Error::other)?;
    try_negotiate(&mut channel, "/yamux/1.0.0").await?;
    drop(channel);
    socket.write_all(&vec![0xff; SENT]).await?;
    Ok(Box::new(socket))
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_frames_on_idle_connections() {
    const OFFENDERS: usize = 560;
    const AT_ONCE: usize = 40;
    let limited = Limited::start(80).await;
    let mut offenders = Vec::new();
    while offenders.len() < OFFENDERS {
        let some = (0..AT_ONCE).map(|_| timeout(PATIENCE, with_incomplete_frame(&limited.relay)));
        offenders.extend(join_all(some).await);
    }
    let connected = offenders.iter().filter(|end| matches!(end, Ok(Ok(_))));
    assert!(connected.count() > OFFENDERS / 4);
    limited.assert_serves().await;
    drop(offenders);
    limited.assert_withstood().await;
}

/// Pings on many streams of each connection; the responses are not read.
#[tokio::test(flavor = "multi_thread")]
async fn pings_with_unread_answers() {
    const OFFENDERS: usize = 80;
    const SYN: u8 = 1;
    const PINGS: usize = 64 * 1024;
    let limited = Limited::start(128).await;
    let ask = [
        line("/multistream/1.0.0"),
        line("/ipfs/ping/1.0.0"),
        vec![7; PINGS],
    ]
    .concat();
    let mut offenders = Vec::new();
    for number in 0..OFFENDERS {
        let security = [Security::Noise, Security::Tls][number % 2];
        let mut offender = secured(&limited.relay, security).await;
        negotiate(&mut offender, "/yamux/1.0.0").await;
        offenders.push(offender);
    }
    let mut flood = JoinSet::new();
    for mut offender in offenders {
        let ask = ask.clone();
        flood.spawn(async move {
            for stream in (1..2_000_u32).step_by(2) {
                let mut frames = vec![0, 0, 0, SYN];
                frames.extend(stream.to_be_bytes());
                frames.extend(u32::try_from(ask.len()).unwrap().to_be_bytes());
                frames.extend(&ask);
                // Window update for the responses.
                frames.extend([0, 1, 0, 0]);
                frames.extend(stream.to_be_bytes());
                frames.extend(0x7fff_0000_u32.to_be_bytes());
                let sent = async {
                    offender.write_all(&frames).await?;
                    offender.flush().await
                };
                // The connection is closed, or the write is blocked.
                if !matches!(timeout(BLOCKED, sent).await, Ok(Ok(()))) {
                    break;
                }
            }
            offender
        });
    }
    limited.assert_serves().await;
    let offenders = flood.join_all().await;
    limited.assert_serves().await;
    drop(offenders);
    limited.assert_withstood().await;
}

/// WebSocket peers that announce frames of 200 MB and do not send them. The relay allocates no memory for
/// an announced length, and does not limit the number of these connections for it.
#[tokio::test(flavor = "multi_thread")]
async fn announced_websocket_frames() {
    const OFFENDERS: usize = 600;
    let limited = Limited::start(128).await;
    let upgrade = b"GET / HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut header = vec![0x82, 0x80 | 127];
    header.extend(200_000_000_u64.to_be_bytes());
    header.extend([0; 4]);
    let mut offenders = Vec::new();
    for _ in 0..OFFENDERS {
        let mut offender = dial(socket(&limited.relay.websocket())).await;
        // Some are refused at the limit of concurrent handshakes.
        if offender.write_all(upgrade).await.is_ok() {
            let _ = offender.write_all(&header).await;
        }
        offenders.push(offender);
    }
    drop(offenders);
    limited.assert_serves().await;
    limited.assert_withstood().await;
}
