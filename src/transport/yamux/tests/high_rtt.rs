//! A remote that is far away has as much on its way as its connection carries, not only the window
//! with which all start.

use tokio::time::{Instant, sleep_until};

use super::*;

const BYTES: usize = 32 * 1024 * 1024;
/// What the network between the two carries.
const BYTES_PER_SECOND: f64 = 40_000_000.0;
const CHUNK_BYTES: usize = 64 * 1024;

/// Two ends of a connection that carries bytes this far, for each of the two ways.
fn apart(way: Duration, tasks: &mut JoinSet<()>) -> (Socket, Socket) {
    let ((a, near), (far, b)) = (sockets(), sockets());
    let ((near_out, near_in), (far_out, far_in)) = (near.split(), far.split());
    tasks.spawn(carry(near_out, far_in, way));
    tasks.spawn(carry(far_out, near_in, way));
    (a, b)
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, way: Duration) {
    let (under_way, mut arriving) = mpsc::channel(BYTES / CHUNK_BYTES);
    let departs = async {
        let mut free = Instant::now();
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            #[expect(clippy::cast_precision_loss, reason = "a chunk is small")]
            let takes = Duration::from_secs_f64(n as f64 / BYTES_PER_SECOND);
            free = free.max(Instant::now()) + takes;
            let chunk = (free + way, buffer[..n].to_vec());
            let _ = under_way.send(chunk).await;
            sleep_until(free).await;
        }
        drop(under_way);
    };
    let arrives = async {
        while let Some((at, bytes)) = arriving.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(departs, arrives);
}

/// How long the bytes take to a reader that is so far away, one way.
async fn takes(way: Duration, config: Config) -> Duration {
    let mut tasks = JoinSet::new();
    let (near, far) = apart(way, &mut tasks);
    let sender = Peer::new(theirs(far, Role::Client));
    let mut receiver = Peer::new(Muxer::new(near, config, Role::Server));
    let mut out = sender.open().await;
    let began = Instant::now();
    tasks.spawn(async move { out.write_all(&vec![7; BYTES]).await.unwrap() });
    let mut into = receiver.accept().await;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut read = 0;
    while read < BYTES {
        read += into.read(&mut buffer).await.unwrap();
    }
    began.elapsed()
}

/// A little more than a round trip for each of the largest windows, after some for smaller ones.
#[tokio::test(start_paused = true)]
async fn window_grows_to_its_maximum_at_a_high_rtt() {
    let way = Duration::from_millis(50);
    let windows = BYTES.div_ceil(Config::default().max_receive_window as usize);
    let round_trips = u32::try_from(windows).unwrap() * 5 / 4;
    // Each keeps the other from being alone.
    let config = Config::default();
    let (one, other) = tokio::join!(takes(way, config.clone()), takes(way, config));
    let took = one.max(other);
    assert!(took < 2 * way * round_trips, "{took:?}");
}
