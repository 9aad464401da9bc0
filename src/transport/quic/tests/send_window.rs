//! How much is on its way to peers that are near, and to those that are far away.

use futures::FutureExt;
use tokio::{net::UdpSocket, sync::watch, time::Instant};

use super::*;

const MOST: usize = 1024 * 1024;

#[test]
fn little_is_on_its_way_to_a_near_peer() {
    let taken = taken_by_a_peer(Duration::ZERO, Duration::ZERO);
    assert!((64 * 1024..=MOST / 2).contains(&taken), "{taken}");
}

#[test]
fn much_is_on_its_way_to_a_far_peer() {
    let far = Duration::from_millis(20);
    let taken = taken_by_a_peer(far, far);
    assert!(taken > MOST / 2, "{taken}");
}

/// A handshake that takes long, because both sides are busy, says little of the way.
#[test]
fn a_peer_turns_out_to_be_near() {
    let taken = taken_by_a_peer(Duration::from_millis(20), Duration::ZERO);
    assert!((64 * 1024..=MOST / 2).contains(&taken), "{taken}");
}

/// How much may be written to a peer that has had a good deal already, and does nothing any more.
/// Packets take so long each way while its stream is opened, and `later`.
fn taken_by_a_peer(first: Duration, later: Duration) -> usize {
    const BEFORE: usize = 2 * MOST;
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
        // What the peer has acknowledged by now is known when this comes.
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
    let most = usize::try_from(Config::new(&Keypair::generate_ed25519()).send_window).unwrap();
    assert_eq!(most, MOST);
    let mut taken = 0;
    while let Some(written) = stream.write(&[0; 4096]).now_or_never() {
        taken += written.unwrap();
    }
    taken
}

/// A way to a listener on which packets take their time, the same in both directions.
pub(super) struct Path {
    pub(super) address: SocketAddr,
    pub(super) delay: watch::Sender<Duration>,
    /// Which packets get lost, as they arrive.
    pub(super) loss: watch::Sender<Loss>,
    /// How many packets to the listener have arrived, lost ones included.
    pub(super) arrived: watch::Receiver<usize>,
    _ways: JoinSet<()>,
}

/// The directions in which all packets get lost.
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
        let mut ways = JoinSet::new();
        let losses = loss.subscribe();
        let is_lost = move || {
            counter.send_modify(|count| *count += 1);
            losses.borrow().to_listener
        };
        ways.spawn(way(near.clone(), far.clone(), delay.subscribe(), is_lost));
        let losses = loss.subscribe();
        let is_lost = move || losses.borrow().from_listener;
        ways.spawn(way(far, near, delay.subscribe(), is_lost));
        Self {
            address,
            delay,
            loss,
            arrived,
            _ways: ways,
        }
    }
}

/// Carries packets from one socket to the other. The one who sends first is who they are sent to.
async fn way(
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
    let carry = async {
        while let Some((due, packet)) = packets.recv().await {
            tokio::time::sleep_until(due).await;
            to.send(&packet).await.unwrap();
        }
    };
    tokio::join!(receive, carry);
}
