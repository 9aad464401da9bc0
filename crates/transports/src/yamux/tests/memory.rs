//! All bytes that a connection holds are charged to its account, and relief releases them.

use futures::executor::block_on;
use libp2p::identity::Keypair;
use proptest::prelude::*;
use resource_manager::{ConnectionMemory, GUARANTEED_BYTES, ResourceLimits, Resources, Shares};

use super::*;
use crate::noise::{self, NoiseStream};

const ALL: u64 = 1024 * 1024;

/// Resources with a limit of [`ALL`] buffered bytes.
fn resources() -> Resources {
    let limits = ResourceLimits {
        buffered: Some(ALL),
        ..*Resources::unlimited().limits()
    };
    Resources::new(limits, Shares::default())
}

fn raw(resources: &Resources) -> Raw {
    Raw::new(Role::Server, Config::for_resources(resources.clone()))
}

/// Waits until the number of buffered bytes satisfies `is_wanted`.
async fn holds(resources: &Resources, is_wanted: impl Fn(u64) -> bool) {
    soon(async {
        while !is_wanted(resources.buffered_bytes()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Writes until the stream is blocked, even after the connection was polled 100 times. Returns the
/// number of bytes that were written.
async fn fill(stream: &mut Substream) -> u64 {
    let mut total = 0;
    let mut idle = 0;
    while idle < 100 {
        match poll_once(stream.write(&vec![7; 64 * 1024])) {
            Poll::Ready(written) => {
                total += written.unwrap() as u64;
                idle = 0;
            }
            Poll::Pending => {
                idle += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    total
}

#[tokio::test]
async fn queued_bytes_are_charged_until_they_are_written() {
    let resources = resources();
    let mut raw = raw(&resources);
    let mut stream = raw.stream(1).await;
    holds(&resources, |held| held == 0).await;
    let queued = fill(&mut stream).await - SOCKET_BUFFER as u64;
    let held = resources.buffered_bytes();
    assert!((queued..queued + 128 * 1024).contains(&held), "{held}");
    let mut received = 0;
    while received < queued + SOCKET_BUFFER as u64 {
        received += u64::from(raw.receive().await.0.length);
    }
    holds(&resources, |held| held == 0).await;
}

#[tokio::test]
async fn queued_bytes_are_released_with_the_connection() {
    let resources = resources();
    let mut raw = raw(&resources);
    let mut stream = raw.stream(1).await;
    fill(&mut stream).await;
    assert!(resources.buffered_bytes() > GUARANTEED_BYTES);
    drop(raw);
    holds(&resources, |held| held == 0).await;
    assert!(poll_once(stream.write(&[1])).is_ready());
}

/// A connection of another address prefix that holds all buffers.
fn hoard(resources: &Resources) -> ConnectionMemory {
    let memory = ConnectionMemory::new(resources.clone());
    memory.charge(ALL);
    memory
}

#[tokio::test]
async fn writers_wait_for_an_empty_queue_without_memory() {
    let resources = resources();
    let hoard = hoard(&resources);
    let mut raw = raw(&resources);
    let mut streams = [raw.stream(1).await, raw.stream(3).await];
    let mut expected = 800_000;
    for stream in &mut streams {
        expected += fill(stream).await;
    }
    let held = resources.buffered_bytes() - ALL;
    assert!(held <= GUARANTEED_BYTES + 32 * 1024, "{held}");
    // All streams make progress nevertheless, as the remote reads.
    let mut writers = JoinSet::new();
    for mut stream in streams {
        writers.spawn(async move {
            stream.write_all(&vec![7; 400_000]).await.unwrap();
            stream
        });
    }
    while expected > 0 {
        let (header, _) = raw.receive().await;
        if header.kind == Kind::Data {
            expected -= u64::from(header.length);
            let credit = Header::window_update(header.stream, Flags::NONE, header.length);
            raw.send(credit, &[]).await;
        }
    }
    let mut streams = writers.join_all().await;
    drop(hoard);
    assert!(fill(&mut streams[0]).await > GUARANTEED_BYTES);
}

#[tokio::test]
async fn read_bytes_are_charged_until_the_next_read() {
    let resources = resources();
    let mut raw = raw(&resources);
    let mut stream = raw.stream(1).await;
    raw.send(Header::data(1, 60_000), &vec![1; 60_000]).await;
    soon(stream.read_exact(&mut vec![0; 60_000])).await.unwrap();
    assert!(resources.buffered_bytes() > 0);
    assert!(poll_once(stream.read(&mut [0; 1])).is_pending());
    holds(&resources, |held| held == 0).await;
}

#[tokio::test]
async fn relief_resets_the_streams_holding_most() {
    let resources = resources();
    let mut raw = raw(&resources);
    let mut small = raw.stream(1).await;
    let mut large = raw.stream(3).await;
    raw.send(Header::data(1, 20_000), &vec![1; 20_000]).await;
    for _ in 0..2 {
        raw.send(Header::data(3, 100_000), &vec![3; 100_000]).await;
    }
    // The end of the stream is not read yet; after the reset it must not be.
    raw.send(fin(3), &[]).await;
    assert_eq!(raw.received().await, []);
    let relieved = resources.relieve_connections(1);
    assert_eq!(relieved.connections, 1);
    assert!(relieved.bytes >= 220_000, "{relieved:?}");
    holds(&resources, |held| held <= GUARANTEED_BYTES).await;
    assert_eq!(raw.received().await, [rst(3)]);
    let (read, end) = read_all(&mut large).await;
    assert!(read.is_empty());
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    soon(small.read_exact(&mut vec![0; 20_000])).await.unwrap();
    soon(small.write_all(b"goes on")).await.unwrap();
}

#[tokio::test]
async fn relief_ends_a_connection_with_a_blocked_remote() {
    let resources = resources();
    let mut raw = raw(&resources);
    let mut stream = raw.stream(1).await;
    fill(&mut stream).await;
    assert_eq!(resources.relieve_connections(1).connections, 1);
    let end = raw.peer.ended().await;
    assert!(matches!(end, Err(Error::OutOfMemory)), "{end:?}");
    drop(stream);
    holds(&resources, |held| held == 0).await;
}

#[tokio::test]
async fn relief_ends_a_closing_connection() {
    let resources = resources();
    let mut raw = raw(&resources);
    let mut stream = raw.stream(1).await;
    fill(&mut stream).await;
    let _ = raw.peer.commands.send(Command::Close).await;
    while poll_once(stream.write(&[1])).is_pending() {
        tokio::task::yield_now().await;
    }
    assert_eq!(resources.relieve_connections(1).connections, 1);
    raw.peer.ended().await.unwrap();
}

/// Both ends of a Noise stream.
async fn noise_streams() -> (NoiseStream<Socket>, NoiseStream<Socket>) {
    let (near, far) = sockets();
    let keys = || noise::Keys::new(&Keypair::generate_ed25519()).unwrap();
    let (dialled, accepted) =
        futures::future::join(noise::dial(keys(), near), noise::accept(keys(), far)).await;
    (dialled.unwrap().1, accepted.unwrap().1)
}

/// A Noise frame that stays incomplete.
#[tokio::test]
async fn incomplete_frame_is_charged_and_relieved() {
    let resources = resources();
    let (near, mut socket) = sockets();
    let keys = || noise::Keys::new(&Keypair::generate_ed25519()).unwrap();
    let dial = async { noise::dial(keys(), &mut socket).await.map(|_| ()) };
    let (dialled, accepted) = futures::future::join(dial, noise::accept(keys(), near)).await;
    dialled.unwrap();
    let muxer = Muxer::new(
        accepted.unwrap().1,
        Config::for_resources(resources.clone()),
        Role::Server,
    );
    let mut peer = Peer::new(muxer);
    soon(socket.write_all(&vec![0xff; 50_000])).await.unwrap();
    holds(&resources, |held| (50_000..=62_500).contains(&held)).await;
    assert_eq!(resources.relieve_connections(1).connections, 1);
    let end = peer.ended().await;
    assert!(matches!(end, Err(Error::OutOfMemory)), "{end:?}");
    holds(&resources, |held| held == 0).await;
}

/// An operation on a stream.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(usize),
    Read(usize),
    Close,
    Drop,
    Relieve,
    Run,
}

fn step() -> impl Strategy<Value = (usize, bool, Step)> {
    let size = prop_oneof![1..100_usize, 1..200_000_usize];
    let step = prop_oneof![
        8 => size.clone().prop_map(Step::Write),
        6 => size.prop_map(Step::Read),
        1 => Just(Step::Close),
        1 => Just(Step::Drop),
        1 => Just(Step::Relieve),
        4 => Just(Step::Run),
    ];
    (0..4_usize, any::<bool>(), step)
}

/// Runs random operations on the streams of two muxers over Noise.
async fn random_operations(steps: Vec<(usize, bool, Step)>) {
    let resources = resources();
    let (near, far) = noise_streams().await;
    let config = || Config::for_resources(resources.clone());
    let near = Peer::new(Muxer::new(near, config(), Role::Client));
    let mut far = Peer::new(Muxer::new(far, config(), Role::Server));
    let mut streams = Vec::new();
    for _ in 0..4 {
        let opened = near.open().await;
        streams.push([Some(opened), Some(far.accept().await)]);
    }
    for (index, side, step) in steps {
        let slot = &mut streams[index][usize::from(side)];
        match (step, slot) {
            (Step::Write(length), Some(stream)) => {
                let _ = poll_once(stream.write(&vec![1; length]));
            }
            (Step::Read(length), Some(stream)) => {
                let _ = poll_once(stream.read(&mut vec![0; length]));
            }
            (Step::Close, Some(stream)) => {
                let _ = poll_once(stream.close());
            }
            (Step::Drop, slot) => *slot = None,
            (Step::Relieve, _) => {
                resources.relieve_connections(1);
            }
            _ => {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
            }
        }
        // The limit, and the guarantee and one frame for each connection.
        let limit = ALL + 2 * (GUARANTEED_BYTES + 256 * 1024);
        assert!(resources.buffered_bytes() <= limit);
    }
    drop(streams);
    drop((near, far));
    holds(&resources, |held| held == 0).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn nothing_is_charged_at_the_end(steps in prop::collection::vec(step(), 0..100)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(random_operations(steps));
    }
}

/// The muxer collects reports of lower layers only while it polls them.
#[test]
fn report_is_kept_while_the_muxer_does_not_poll() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut near, mut far) = runtime.block_on(noise_streams());
    block_on(async {
        near.write_all(&vec![1; 30_000]).await.unwrap();
        near.flush().await.unwrap();
    });
    // Less than the frame.
    let mut buffer = [0; 10];
    block_on(far.read_exact(&mut buffer)).unwrap();
    let (read, change) =
        crate::buffered::collect_changes(|| block_on(far.read(&mut buffer)).unwrap());
    assert_eq!(read, 10);
    assert!(change >= 30_000, "{change}");
}
