//! Circuits whose bandwidth is limited.

use std::sync::Arc;

use libp2p::PeerId;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::*;
use crate::{BandwidthLimit, BandwidthLimits, bandwidth::BandwidthLimiter};

/// Bytes per second.
const RATE: u64 = 100_000;
const BURST: u64 = 10_000;

const LIMIT: BandwidthLimit = BandwidthLimit {
    rate: Some(RATE),
    burst: Some(BURST),
};

fn bandwidth_limiter() -> Arc<BandwidthLimiter> {
    let bandwidth = BandwidthLimits {
        circuit: LIMIT,
        ..BandwidthLimits::default()
    };
    BandwidthLimiter::new(&bandwidth).unwrap()
}

fn limiter(bandwidth_limiter: &Arc<BandwidthLimiter>) -> CircuitLimiter {
    bandwidth_limiter.circuit(PeerId::random(), PeerId::random())
}

/// Runs a circuit with a bandwidth limit, and measures its duration.
async fn run(
    source: Pipe,
    early: EarlyData,
    target: Pipe,
    limit: CircuitLimit,
) -> (Outcome, Duration) {
    let (begun, bandwidth_limiter) = (Instant::now(), bandwidth_limiter());
    let (cut, state) = (CancellationToken::new(), CircuitState::default());
    let bounds = bounds(limit, &cut, &state);
    let (source, target, limiter) = (side(source), side(target), limiter(&bandwidth_limiter));
    let outcome = relay(source, early, target, bounds, Some(limiter), |_| ()).await;
    (outcome, begun.elapsed())
}

/// Expected duration of a transfer, after the burst.
fn expected(bytes: usize) -> Duration {
    Duration::from_millis((bytes as u64 - BURST) * 1000 / RATE)
}

/// Never shorter, and longer only by the cost of timers and a quantum.
fn assert_takes(took: Duration, bytes: usize) {
    let (least, most) = (expected(bytes), expected(bytes) + Duration::from_millis(20));
    assert!(
        (least..=most).contains(&took),
        "{took:?} instead of {least:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn transfer_takes_as_long_as_the_rate_requires_and_loses_nothing() {
    for capacity in [100, 10_000, 1_000_000] {
        let (mut a, source) = pipe(capacity);
        let (mut b, target) = pipe(1_000_000);
        let sent = pattern(210_000, 1);
        let circuit = run(source, EarlyData::default(), target, limit(None, None));
        let clients = async {
            let back = async {
                let received = read_all(&mut b).await;
                b.close().await.unwrap();
                received
            };
            tokio::join!(send_and_close(&mut a, &sent), back).1
        };
        let ((outcome, took), received) = tokio::join!(circuit, clients);
        assert!(received == sent, "{} bytes came", received.len());
        assert_eq!(outcome.end, EndReason::Eof);
        assert_takes(took, 210_000);
    }
}

#[tokio::test(start_paused = true)]
async fn both_directions_share_the_limit_equally() {
    let (mut a, source) = pipe(1_000_000);
    let (mut b, target) = pipe(1_000_000);
    let (forth, back) = (pattern(105_000, 1), pattern(105_000, 2));
    let circuit = run(source, EarlyData::default(), target, limit(None, None));
    let clients = async {
        send_and_close(&mut a, &forth).await;
        send_and_close(&mut b, &back).await;
        sleep(Duration::from_secs(1)).await;
        let mut chunk = vec![0; 1_000_000];
        let (at_a, at_b) = (
            a.read(&mut chunk).await.unwrap(),
            b.read(&mut chunk).await.unwrap(),
        );
        for bytes in [at_a, at_b] {
            // In one second, half of the burst and of the rate, and a few quanta.
            assert!((50_000..60_000).contains(&bytes), "{at_a} and {at_b}");
        }
        (
            at_a + read_all(&mut a).await.len(),
            at_b + read_all(&mut b).await.len(),
        )
    };
    let ((outcome, took), received) = tokio::join!(circuit, clients);
    assert_eq!(received, (back.len(), forth.len()));
    assert_eq!(outcome.end, EndReason::Eof);
    assert_takes(took, 210_000);
}

#[tokio::test(start_paused = true)]
async fn early_data_counts_for_the_bandwidth() {
    let (mut a, mut source) = pipe(EARLY_BYTES);
    let (mut b, target) = pipe(EARLY_BYTES);
    let sent = pattern(EARLY_BYTES, 1);
    send_and_close(&mut a, &sent).await;
    b.close().await.unwrap();
    let mut early = EarlyData::default();
    let watch = timeout(Duration::from_millis(1), early.watch(&mut source));
    assert!(watch.await.is_err());
    let circuit = run(source, early, target, limit(None, None));
    let ((_, took), received) = tokio::join!(circuit, read_all(&mut b));
    assert!(received == sent, "{} bytes came", received.len());
    assert_takes(took, EARLY_BYTES);
}

#[tokio::test(start_paused = true)]
async fn byte_limit_is_detected_without_waiting_for_bandwidth() {
    /// Nine quanta, less than the burst.
    const ALLOWED: usize = 9 * 1024;
    let (mut a, source) = pipe(1_000_000);
    let (mut b, target) = pipe(1_000_000);
    send_and_close(&mut a, &pattern(ALLOWED + 1, 1)).await;
    let circuit = run(
        source,
        EarlyData::default(),
        target,
        limit(Some(ALLOWED as u64), None),
    );
    let ((outcome, took), received) = tokio::join!(circuit, read_all(&mut b));
    assert_eq!(received.len(), ALLOWED);
    assert_eq!(outcome.end, EndReason::Bytes);
    assert_eq!(took, LIMIT_GRACE);
}

/// A stream that fails with a reset when its token is cancelled; data that was sent before stays
/// readable.
struct Resettable {
    stream: Pipe,
    reset: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            ready!(self.reset.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// The event that ends a waiting circuit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Source,
    Target,
    Drain,
    Deadline,
}

/// Ending refunds the unused bytes of the circuit.
#[tokio::test(start_paused = true)]
async fn waiting_circuit_ends_at_once() {
    const AFTER: Duration = Duration::from_millis(105);
    for ending in [
        Ending::Source,
        Ending::Target,
        Ending::Drain,
        Ending::Deadline,
    ] {
        // One quantum passes; the next one would take seconds.
        let slow = BandwidthLimit {
            rate: Some(1000),
            burst: Some(1000),
        };
        let bandwidth = BandwidthLimits {
            relay: slow,
            ..BandwidthLimits::default()
        };
        let bandwidth_limiter = BandwidthLimiter::new(&bandwidth).unwrap();
        let (mut a, source) = pipe(100_000);
        let (_b, target) = pipe(100_000);
        a.write_all(&pattern(50_000, 1)).await.unwrap();
        let tokens: [CancellationToken; 3] = Default::default();
        let [reset_source, reset_target, cut] = &tokens;
        let resettable = |stream, reset: &CancellationToken| Side {
            stream: Resettable {
                stream,
                reset: Box::pin(reset.clone().cancelled_owned()),
            },
            closed: CancellationToken::new(),
        };
        let duration = (ending == Ending::Deadline).then_some(AFTER);
        let (begun, state) = (Instant::now(), CircuitState::default());
        let circuit = relay(
            resettable(source, reset_source),
            EarlyData::default(),
            resettable(target, reset_target),
            bounds(limit(None, duration), cut, &state),
            Some(limiter(&bandwidth_limiter)),
            |_| (),
        );
        let end = async {
            sleep(AFTER).await;
            match ending {
                Ending::Source => reset_source.cancel(),
                Ending::Target => reset_target.cancel(),
                Ending::Drain => cut.cancel(),
                Ending::Deadline => {}
            }
        };
        let (outcome, ()) = tokio::join!(circuit, end);
        let expected = match ending {
            Ending::Source | Ending::Target => EndReason::Reset,
            Ending::Drain => EndReason::Drained,
            Ending::Deadline => EndReason::Duration,
        };
        assert_eq!((outcome.end, outcome.to_target), (expected, 1000));
        assert!(begun.elapsed() < AFTER + Duration::from_millis(2));
        assert_eq!(bandwidth_limiter.available(), Some(105), "{ending:?}");
    }
}

/// Large and small writes, in one direction and in both.
#[tokio::test(start_paused = true)]
async fn circuits_of_one_peer_share_its_bandwidth() {
    let bandwidth = BandwidthLimits {
        peer: LIMIT,
        ..BandwidthLimits::default()
    };
    let (bandwidth_limiter, shared) =
        (BandwidthLimiter::new(&bandwidth).unwrap(), PeerId::random());
    let circuit = async |piece: usize, goes_back: bool, is_source: bool| {
        let (mut a, source) = pipe(65_536);
        let (mut b, target) = pipe(65_536);
        let (peer, cut) = (PeerId::random(), CancellationToken::new());
        let limiter = if is_source {
            bandwidth_limiter.circuit(shared, peer)
        } else {
            bandwidth_limiter.circuit(peer, shared)
        };
        let deadline = limit(None, Some(Duration::from_secs(10)));
        let state = CircuitState::default();
        let circuit = relay(
            side(source),
            EarlyData::default(),
            side(target),
            bounds(deadline, &cut, &state),
            Some(limiter),
            |_| (),
        );
        let client = async |stream: &mut Pipe, sends: bool| {
            let (mut reader, mut writer) = stream.split();
            let piece = vec![1; piece];
            let write = async { while sends && writer.write_all(&piece).await.is_ok() {} };
            let mut received = Vec::new();
            let _ = tokio::join!(write, reader.read_to_end(&mut received));
        };
        let outcome = tokio::select! {
            outcome = circuit => outcome,
            _ = async { tokio::join!(client(&mut a, true), client(&mut b, goes_back)) } => panic!(),
        };
        assert_eq!(outcome.end, EndReason::Duration);
        outcome.to_target + outcome.to_source
    };
    let (large, small, both, other) = tokio::join!(
        circuit(50_000, false, true),
        circuit(10, false, true),
        circuit(50_000, true, true),
        circuit(1000, false, false),
    );
    let all = [large, small, both, other];
    let total: u64 = all.iter().sum();
    assert!(total <= BURST + 10 * RATE, "{all:?}");
    for bytes in all {
        let percent = bytes * 100 / total;
        assert!((24..=25).contains(&percent), "{all:?}");
    }
}
