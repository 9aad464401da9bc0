//! The buffers that a peer can make the relay hold, and the growth of the windows.

use futures::FutureExt;
use quinn::{RecvStream, SendStream};
use rate_limits::LogThrottle;
use resource_manager::{CircuitLimits, ResourceLimits, Resources, Shares};

use super::super::credit::INITIAL_WINDOW;
use super::super::flow_control::FlowControl;
use super::send_window::{Loss, Path};
use super::*;
use crate::observer::NoObserver;
use crate::{Admission, ConnectionGater};

const KIB: u64 = 1024;
const STREAM_WINDOW: u64 = 512 * KIB;
/// The time without progress after which a writer is considered blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(500);

/// A server with a limit of `buffered` bytes for all connections together.
async fn server(buffered: Option<u64>) -> (Server, Resources) {
    let limits = ResourceLimits::new(None, None, &CircuitLimits::default());
    let resources = Resources::new(ResourceLimits { buffered, ..limits }, Shares::default());
    let gater = ConnectionGater::new(
        Admission::default(),
        resources.clone(),
        NoObserver::shared(),
        LogThrottle::new(),
    );
    let keypair = Keypair::generate_ed25519();
    let server = Server::with(&keypair, LOOPBACK, |config| config.gater = gater).await;
    (server, resources)
}

/// A connection whose muxer runs in a task, as in a swarm, and the streams that the task accepts.
struct Peer {
    connection: quinn::Connection,
    flow: Arc<FlowControl>,
    streams: mpsc::Receiver<super::super::Stream>,
    muxer: JoinSet<()>,
}

impl Peer {
    async fn new(server: &mut Server) -> Self {
        let (muxer, connection) = server.pair().await;
        Self::of(muxer, connection)
    }

    fn of(mut muxer: Connection, connection: quinn::Connection) -> Self {
        let flow = muxer.flow();
        let (send, streams) = mpsc::channel(100);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(stream) = inbound(&mut muxer).await {
                if send.send(stream).await.is_err() {
                    break;
                }
            }
        });
        Self {
            connection,
            flow,
            streams,
            muxer: task,
        }
    }

    /// A stream that the peer opens with 1,024 bytes, and our end of it, which has read 1,000 of them.
    async fn stream(&mut self) -> (SendStream, RecvStream, super::super::Stream) {
        let (mut send, recv) = within(self.connection.open_bi()).await.unwrap();
        send.write_all(&[1; 1024]).await.unwrap();
        let mut ours = within(self.streams.recv()).await.unwrap();
        within(ours.read_exact(&mut [0; 1000])).await.unwrap();
        (send, recv, ours)
    }
}

/// Writes until the writer is blocked. Returns the number of bytes that were written.
async fn fill(send: &mut SendStream) -> u64 {
    let mut total = 0;
    while let Ok(Ok(written)) = tokio::time::timeout(BLOCKED_AFTER, send.write(&[0; 4096])).await {
        total += written as u64;
    }
    total
}

#[tokio::test]
async fn unread_data_is_bounded_for_all_streams_of_a_connection() {
    let (mut server, _) = server(Some(0)).await;
    let (_muxer, connection) = server.pair().await;
    let mut total = 0;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        total += fill(&mut send).await;
        streams.push((send, recv));
    }
    assert_eq!(total, INITIAL_WINDOW);
}

#[tokio::test]
async fn unread_stream_does_not_block_others() {
    let (mut server, _) = server(Some(64 * 1024 * KIB)).await;
    let mut peer = Peer::new(&mut server).await;
    let (mut unread, _recv, _ours) = peer.stream().await;
    let (mut send, _answers, mut ours) = peer.stream().await;
    let filled = fill(&mut unread).await;
    assert!(filled >= INITIAL_WINDOW / 2, "{filled}");
    let data = pattern(512 * 1024);
    let mut received = vec![0; data.len()];
    // The rest of the bytes that opened the stream.
    within(ours.read_exact(&mut [0; 24])).await.unwrap();
    let (write_result, read_result) =
        within(async { tokio::join!(send.write_all(&data), ours.read_exact(&mut received)) }).await;
    write_result.unwrap();
    read_result.unwrap();
    assert!(received == data);
}

#[tokio::test]
async fn buffers_of_all_connections_are_limited() {
    const CONNECTIONS: u64 = 20;
    const LIMIT: u64 = 2048 * KIB;
    let (mut server, resources) = server(Some(LIMIT)).await;
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut peer = Peer::new(&mut server).await;
        let streams = [peer.stream().await, peer.stream().await];
        peers.push((peer, streams));
    }
    let fills = peers
        .iter_mut()
        .flat_map(|(_, streams)| streams.iter_mut().map(|(send, ..)| fill(send)));
    let filled: u64 = futures::future::join_all(fills).await.into_iter().sum();
    assert!(filled <= LIMIT + CONNECTIONS * INITIAL_WINDOW, "{filled}");
    assert!(filled > CONNECTIONS * INITIAL_WINDOW / 2, "{filled}");
    let held = resources.buffered_bytes();
    assert!(held <= LIMIT + CONNECTIONS * INITIAL_WINDOW, "{held}");
    // Most of it is charged; each stream may have a remainder that is charged with its next step.
    within(async {
        while resources.buffered_bytes() < filled / 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(peers);
    within(async {
        while resources.buffered_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn window_grows_at_a_high_rtt_when_data_is_read() {
    let (mut server, _) = server(None).await;
    let path = Path::to(server.socket(), Duration::from_millis(20)).await;
    let connecting = client().connect(path.address, "any").unwrap();
    let (ours, theirs) = tokio::join!(server.connection(), within(connecting));
    let mut peer = Peer::of(ours, theirs.unwrap());
    let (mut send, _recv, mut ours) = peer.stream().await;
    let sending = async {
        let data = vec![0; 64 * 1024];
        while peer.flow.receive_window() < STREAM_WINDOW {
            send.write_all(&data).await.unwrap();
        }
        send.finish().unwrap();
    };
    let mut sink = futures::io::sink();
    let reading = futures::io::copy(&mut ours, &mut sink);
    within(async { tokio::join!(sending, reading) })
        .await
        .1
        .unwrap();
    // Data that was read is not held.
    within(async {
        while peer.flow.held() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn slow_transfer_keeps_the_initial_window() {
    let (mut server, _) = server(None).await;
    let mut peer = Peer::new(&mut server).await;
    let (mut send, mut recv, mut ours) = peer.stream().await;
    within(ours.read_exact(&mut [0; 24])).await.unwrap();
    // One request in flight at a time.
    for _ in 0..200 {
        send.write_all(&[0; 1000]).await.unwrap();
        within(ours.read_exact(&mut [0; 1000])).await.unwrap();
        ours.write_all(&[0]).await.unwrap();
        within(recv.read_exact(&mut [0])).await.unwrap();
    }
    assert_eq!(peer.flow.receive_window(), INITIAL_WINDOW);
}

#[tokio::test]
async fn relief_resets_streams_and_then_closes_the_connection() {
    let (mut server, resources) = server(Some(64 * 1024 * KIB)).await;
    let mut peer = Peer::new(&mut server).await;
    let (mut unread, _recv, mut ours) = peer.stream().await;
    let (_quiet_send, mut quiet_recv, mut quiet) = peer.stream().await;
    within(quiet.read_exact(&mut [0; 24])).await.unwrap();
    assert!(quiet.read(&mut [0]).now_or_never().is_none());
    let filled = fill(&mut unread).await;
    assert!(filled > INITIAL_WINDOW, "{filled}");
    within(async {
        while peer.flow.held() <= INITIAL_WINDOW {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(resources.relieve_connections(1).connections, 1);
    // The stream that holds bytes is reset, and its task is woken.
    let failure = within(ours.read(&mut [])).await.unwrap_err();
    assert_eq!(failure.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(within(unread.stopped()).await.is_ok());
    quiet.write_all(b"here").await.unwrap();
    within(quiet_recv.read_exact(&mut [0; 4])).await.unwrap();
    within(async {
        while resources.buffered_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;

    let (mut unread, _recv, _ours) = peer.stream().await;
    fill(&mut unread).await;
    within(async {
        while peer.flow.held() <= INITIAL_WINDOW {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // The stream's task does not react to the first relief.
    assert_eq!(resources.relieve_connections(1).connections, 1);
    assert_eq!(resources.relieve_connections(1).connections, 1);
    let closed = within(peer.connection.closed()).await;
    assert!(
        matches!(closed, quinn::ConnectionError::ApplicationClosed(_)),
        "{closed:?}"
    );
    within(peer.muxer.join_next()).await;
}

/// A peer that acknowledges late has a high round-trip time, but gets no large window without memory.
#[tokio::test]
async fn unacknowledged_bytes_are_charged_and_bounded() {
    let (mut server, resources) = server(Some(0)).await;
    let path = Path::to(server.socket(), Duration::from_millis(20)).await;
    let connecting = client().connect(path.address, "any").unwrap();
    let (ours, theirs) = tokio::join!(server.connection(), within(connecting));
    let mut peer = Peer::of(ours, theirs.unwrap());
    let (_send, _recv, mut ours) = peer.stream().await;
    path.delay.send_replace(Duration::from_secs(3600));
    let mut taken = 0;
    while let Some(written) = ours.write(&[0; 4096]).now_or_never() {
        taken += written.unwrap() as u64;
    }
    assert!((64 * KIB..=128 * KIB).contains(&taken), "{taken}");
    let held = peer.flow.held();
    assert!(
        (taken - 32 * KIB..=taken).contains(&held),
        "{held} of {taken}"
    );
    assert_eq!(resources.relieve_connections(1).connections, 1);
    let error = within(ours.write_all(&[0; 4096])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    within(async {
        while resources.buffered_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Each datagram is padded and has one byte of data behind a gap in its stream, so the whole datagram
/// stays in memory.
#[tokio::test]
async fn datagrams_kept_for_data_behind_a_gap_are_charged() {
    const STREAMS: usize = 8;
    const DATAGRAMS: usize = 20;
    let (mut server, resources) = server(None).await;
    let path = Path::to(server.socket(), Duration::from_millis(250)).await;
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(64 * 1024 * KIB);
    let mut transport = quinn::TransportConfig::default();
    transport
        .pad_to_mtu(true)
        .congestion_controller_factory(Arc::new(congestion));
    let mut config = client_config();
    config.transport_config(Arc::new(transport));
    let connecting = client().connect_with(config, path.address, "any").unwrap();
    let (ours, theirs) = tokio::join!(server.connection(), within(connecting));
    let mut peer = Peer::of(ours, theirs.unwrap());

    let mut arrived = path.arrived.clone();
    path.loss.send_replace(Loss {
        to_listener: true,
        from_listener: true,
    });
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (mut send, recv) = peer.connection.open_bi().await.unwrap();
        send.write_all(&[0]).await.unwrap();
        streams.push((send, recv));
        within(arrived.changed()).await.unwrap();
    }
    // Without acknowledgements the client does not retransmit the lost bytes.
    path.loss.send_replace(Loss {
        to_listener: false,
        from_listener: true,
    });
    arrived.mark_unchanged();
    for _ in 0..DATAGRAMS {
        for (send, _) in &mut streams {
            send.write_all(&[0]).await.unwrap();
            within(arrived.changed()).await.unwrap();
        }
    }
    // Its retransmissions after a timeout are lost.
    path.loss.send_replace(Loss {
        to_listener: true,
        from_listener: true,
    });
    let mut ours = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = within(peer.streams.recv()).await.unwrap();
        assert!(stream.read(&mut [0]).now_or_never().is_none());
        ours.push(stream);
    }
    let kept = 1000 * (STREAMS * DATAGRAMS) as u64;
    within(async {
        while peer.flow.held() < kept {
            tokio::time::sleep(Duration::from_millis(20)).await;
            peer.flow.check();
        }
    })
    .await;
    assert_eq!(resources.relieve_connections(1).connections, 1);
    for stream in &mut ours {
        let failure = within(stream.read(&mut [0])).await.unwrap_err();
        assert_eq!(failure.kind(), std::io::ErrorKind::ConnectionReset);
    }
    within(async {
        while resources.buffered_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
