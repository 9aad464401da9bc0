//! At a high round-trip time, the window grows to the bandwidth-delay product of the connection.

use tokio::time::{Instant, sleep_until};

use super::*;

const BYTES: usize = 32 * 1024 * 1024;
/// The bandwidth of the network.
const BYTES_PER_SECOND: f64 = 40_000_000.0;
const CHUNK_BYTES: usize = 64 * 1024;

/// Both ends of a connection with a delay of `delay` in each direction.
fn delayed(delay: Duration, tasks: &mut JoinSet<()>) -> (Socket, Socket) {
    let ((a, near), (far, b)) = (sockets(), sockets());
    let ((near_out, near_in), (far_out, far_in)) = (near.split(), far.split());
    tasks.spawn(forward(near_out, far_in, delay));
    tasks.spawn(forward(far_out, near_in, delay));
    (a, b)
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) {
    let (in_flight, mut arriving) = mpsc::channel(BYTES / CHUNK_BYTES);
    let departs = async {
        let mut free = Instant::now();
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            #[expect(clippy::cast_precision_loss, reason = "a chunk is small")]
            let takes = Duration::from_secs_f64(n as f64 / BYTES_PER_SECOND);
            free = free.max(Instant::now()) + takes;
            let chunk = (free + delay, buffer[..n].to_vec());
            let _ = in_flight.send(chunk).await;
            sleep_until(free).await;
        }
        drop(in_flight);
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

/// The duration of a transfer of [`BYTES`] over a connection with a one-way delay of `delay`.
async fn transfer_time(delay: Duration, config: Config) -> Duration {
    let mut tasks = JoinSet::new();
    let (near, far) = delayed(delay, &mut tasks);
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

/// A round trip for each of the maximum windows, and some for smaller ones before.
#[tokio::test(start_paused = true)]
async fn window_grows_to_its_maximum_at_a_high_rtt() {
    let delay = Duration::from_millis(50);
    let windows = BYTES.div_ceil(Config::default().max_receive_window as usize);
    let round_trips = u32::try_from(windows).unwrap() * 5 / 4;
    // Two streams, so that neither is the only busy one.
    let config = Config::default();
    let (one, other) = tokio::join!(
        transfer_time(delay, config.clone()),
        transfer_time(delay, config)
    );
    let took = one.max(other);
    assert!(took < 2 * delay * round_trips, "{took:?}");
}
