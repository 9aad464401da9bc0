//! The send window at low and high round-trip times.

use futures::FutureExt;
use tokio::{net::UdpSocket, sync::watch, time::Instant};

use super::*;

const MAX_WINDOW: usize = 1024 * 1024;

#[test]
fn window_is_small_at_a_low_rtt() {
    let taken = writable_bytes(Duration::ZERO, Duration::ZERO);
    assert!((64 * 1024..=MAX_WINDOW / 2).contains(&taken), "{taken}");
}

#[test]
fn window_is_large_at_a_high_rtt() {
    let far = Duration::from_millis(20);
    let taken = writable_bytes(far, far);
    assert!(taken > MAX_WINDOW / 2, "{taken}");
}

/// The handshake may take long because both sides are busy.
#[test]
fn window_shrinks_after_a_slow_handshake() {
    let taken = writable_bytes(Duration::from_millis(20), Duration::ZERO);
    assert!((64 * 1024..=MAX_WINDOW / 2).contains(&taken), "{taken}");
}

/// The number of bytes that may be written to a peer that has received 2 MiB and is stopped then.
/// Packets are delayed by `first` in each direction while its stream is opened, and by `later`
/// afterwards.
fn writable_bytes(first: Duration, later: Duration) -> usize {
    const BEFORE: usize = 2 * MAX_WINDOW;
    let mut ours = tokio::runtime::Builder::new_multi_thread();
    let ours = ours.worker_threads(1).enable_all().build().unwrap();
    let mut server = ours.block_on(Server::start());
    let path = ours.block_on(Path::to(server.socket(), first));
    let delay = path.delay.clone();
    let accepted = ours.spawn(async move {
        let mut muxer = server.connection().await;
        let mut stream = within(inbound(&mut muxer)).await.unwrap();
        within(stream.read_exact(&mut [0])).await.unwrap();
        delay.send_replace(later);
        within(stream.write_all(&vec![0; BEFORE])).await.unwrap();
        // The peer's acknowledgements have arrived when this byte does.
        within(stream.read_exact(&mut [0])).await.unwrap();
        stream.write_all(&[0]).await.unwrap();
        (server, muxer, stream)
    });

    let mut theirs = tokio::runtime::Builder::new_current_thread();
    let theirs = theirs.enable_all().build().unwrap();
    let _peer = theirs.block_on(async {
        let connection = within(client().connect(path.address, "any").unwrap()).await;
        let connection = connection.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&[0]).await.unwrap();
        within(recv.read_exact(&mut vec![0; BEFORE])).await.unwrap();
        send.write_all(&[0]).await.unwrap();
        within(recv.read_exact(&mut [0])).await.unwrap();
        (connection, send, recv)
    });
    let (_server, _muxer, mut stream) = ours.block_on(accepted).unwrap();
    let limit = usize::try_from(Config::new(&Keypair::generate_ed25519()).send_window).unwrap();
    assert_eq!(limit, MAX_WINDOW);
    let mut taken = 0;
    while let Some(written) = stream.write(&[0; 4096]).now_or_never() {
        taken += written.unwrap();
    }
    taken
}

/// A path to a listener with a delay in each direction, and with losses.
pub(super) struct Path {
    pub(super) address: SocketAddr,
    pub(super) delay: watch::Sender<Duration>,
    /// The directions in which packets are lost.
    pub(super) loss: watch::Sender<Loss>,
    /// The number of packets that were sent to the listener, including lost ones.
    pub(super) arrived: watch::Receiver<usize>,
    _forwarders: JoinSet<()>,
}

/// The directions in which all packets are lost.
#[derive(Clone, Copy, Default)]
pub(super) struct Loss {
    pub(super) to_listener: bool,
    pub(super) from_listener: bool,
}

impl Path {
    pub(super) async fn to(listener: SocketAddr, first: Duration) -> Self {
        let near = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let far = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        far.connect(listener).await.unwrap();
        let address = near.local_addr().unwrap();
        let delay = watch::Sender::new(first);
        let loss = watch::Sender::new(Loss::default());
        let counter = watch::Sender::new(0);
        let arrived = counter.subscribe();
        let mut forwarders = JoinSet::new();
        let losses = loss.subscribe();
        let is_lost = move || {
            counter.send_modify(|count| *count += 1);
            losses.borrow().to_listener
        };
        forwarders.spawn(forward(
            near.clone(),
            far.clone(),
            delay.subscribe(),
            is_lost,
        ));
        let losses = loss.subscribe();
        let is_lost = move || losses.borrow().from_listener;
        forwarders.spawn(forward(far, near, delay.subscribe(), is_lost));
        Self {
            address,
            delay,
            loss,
            arrived,
            _forwarders: forwarders,
        }
    }
}

/// Forwards packets from one socket to the other. An unconnected socket is connected to the sender of
/// the first packet.
async fn forward(
    from: Arc<UdpSocket>,
    to: Arc<UdpSocket>,
    delay: watch::Receiver<Duration>,
    is_lost: impl Fn() -> bool,
) {
    let (send, mut packets) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    let receive = async {
        let mut packet = [0; 2048];
        loop {
            let (length, sender) = from.recv_from(&mut packet).await.unwrap();
            if from.peer_addr().is_err() {
                from.connect(sender).await.unwrap();
            }
            if is_lost() {
                continue;
            }
            let due = Instant::now() + *delay.borrow();
            send.send((due, packet[..length].to_vec())).await.unwrap();
        }
    };
    let send_packets = async {
        while let Some((due, packet)) = packets.recv().await {
            tokio::time::sleep_until(due).await;
            to.send(&packet).await.unwrap();
        }
    };
    tokio::join!(receive, send_packets);
}
