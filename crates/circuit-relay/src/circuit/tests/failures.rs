//! Failures of a side that is not read.

use std::io::ErrorKind;

use tokio::time::{Instant, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::*;

/// Capacity of the pipe to a target that does not read.
const CAPACITY: usize = 100;
const SENT: usize = 1000;

/// A stream that fails when its token is cancelled, like those of the relay's transports.
struct Failing {
    stream: Pipe,
    failed: Pin<Box<WaitForCancellationFutureOwned>>,
    kind: ErrorKind,
}

impl Failing {
    fn new(stream: Pipe, failed: &CancellationToken, kind: ErrorKind) -> Self {
        Self {
            stream,
            failed: Box::pin(failed.clone().cancelled_owned()),
            kind,
        }
    }
}

impl AsyncRead for Failing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // This kind leaves the data complete.
        let fails = self.kind != ErrorKind::BrokenPipe || buf.is_empty();
        if fails && self.failed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(self.kind.into()));
        }
        if buf.is_empty() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Failing {
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

/// Runs a circuit of which one side sends more than the other one reads, and then fails. Returns
/// the result, and how long the circuit outlived the failure.
async fn fails(kind: ErrorKind, is_source: bool, finishes: bool) -> (Outcome, Duration) {
    let failed = CancellationToken::new();
    let (mut sender, from) = pipe(2 * SENT);
    let (_reader, to) = pipe(CAPACITY);
    let from = side(Failing::new(from, &failed, kind));
    let to = side(Failing::new(to, &CancellationToken::new(), kind));
    let (source, target) = if is_source { (from, to) } else { (to, from) };
    let (shutdown, state) = (CancellationToken::new(), CircuitState::default());
    let bounds = bounds(limit(None, None), &shutdown, &state);
    let circuit = relay(source, EarlyData::default(), target, bounds, None, |_| ());
    let client = async {
        sender.write_all(&pattern(SENT, 1)).await.unwrap();
        if finishes {
            sender.close().await.unwrap();
        }
        // Without a failure, a reader may take any time.
        sleep(Duration::from_secs(1000)).await;
        failed.cancel();
        Instant::now()
    };
    let (outcome, failed_at) = tokio::join!(circuit, client);
    (outcome, failed_at.elapsed())
}

#[tokio::test(start_paused = true)]
async fn failure_of_a_side_ends_the_circuit_while_the_other_side_does_not_read() {
    for (kind, end) in [
        (ErrorKind::ConnectionReset, EndReason::Reset),
        (ErrorKind::ConnectionAborted, EndReason::Io),
    ] {
        for (is_source, finishes) in [(true, false), (true, true), (false, false), (false, true)] {
            let (outcome, after) = fails(kind, is_source, finishes).await;
            let moved = if is_source {
                outcome.to_target
            } else {
                outcome.to_source
            };
            assert_eq!((outcome.end, moved), (end, CAPACITY as u64));
            assert_eq!(after, Duration::ZERO, "{kind:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn complete_data_keeps_the_circuit_open_for_a_few_seconds_only() {
    for is_source in [true, false] {
        let (outcome, after) = fails(ErrorKind::BrokenPipe, is_source, true).await;
        assert_eq!(outcome.end, EndReason::Reset);
        assert!(
            after > Duration::ZERO && after < Duration::from_secs(10),
            "{after:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn complete_data_is_delivered_as_long_as_it_makes_progress() {
    let failed = CancellationToken::new();
    let (mut a, source) = pipe(2 * SENT);
    let (mut b, target) = pipe(CAPACITY);
    let sent = pattern(SENT, 1);
    let source = Failing::new(source, &failed, ErrorKind::BrokenPipe);
    let target = Failing::new(target, &CancellationToken::new(), ErrorKind::BrokenPipe);
    let circuit = run(source, EarlyData::default(), target, limit(None, None));
    let clients = async {
        send_and_close(&mut a, &sent).await;
        failed.cancel();
        let mut received = Vec::new();
        let mut chunk = [0; CAPACITY];
        loop {
            sleep(Duration::from_secs(2)).await;
            match b.read(&mut chunk).await.unwrap() {
                0 => break,
                read => received.extend_from_slice(&chunk[..read]),
            }
        }
        b.close().await.unwrap();
        received
    };
    let (outcome, received) = tokio::join!(circuit, clients);
    assert_eq!(received, sent);
    assert_eq!(outcome.end, EndReason::Eof);
}

#[tokio::test(start_paused = true)]
async fn reset_after_eof_is_detected_while_the_target_sends_nothing() {
    let failed = CancellationToken::new();
    let (mut a, source) = pipe(SENT);
    let (mut b, target) = pipe(SENT);
    let source = Failing::new(source, &failed, ErrorKind::ConnectionReset);
    let target = Failing::new(
        target,
        &CancellationToken::new(),
        ErrorKind::ConnectionReset,
    );
    let circuit = run(source, EarlyData::default(), target, limit(None, None));
    let clients = async {
        send_and_close(&mut a, b"question").await;
        assert_eq!(read_all(&mut b).await, b"question");
        sleep(Duration::from_secs(1000)).await;
        failed.cancel();
        Instant::now()
    };
    let (outcome, failed_at) = tokio::join!(circuit, clients);
    assert_eq!(outcome.end, EndReason::Reset);
    assert_eq!(failed_at.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn lost_connection_ends_a_blocked_circuit_whose_stream_does_not_report_it() {
    for is_source in [true, false] {
        let (mut sender, from) = pipe(2 * SENT);
        let (_reader, to) = pipe(CAPACITY);
        let (from, to) = (side(from), side(to));
        let closed = from.closed.clone();
        let (source, target) = if is_source { (from, to) } else { (to, from) };
        let (shutdown, state) = (CancellationToken::new(), CircuitState::default());
        let bounds = bounds(limit(None, None), &shutdown, &state);
        let circuit = relay(source, EarlyData::default(), target, bounds, None, |_| ());
        let client = async {
            sender.write_all(&pattern(SENT, 1)).await.unwrap();
            sleep(Duration::from_secs(1000)).await;
            closed.cancel();
            Instant::now()
        };
        let (outcome, gone_at) = tokio::join!(circuit, client);
        assert_eq!(outcome.end, EndReason::Io);
        assert_eq!(gone_at.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn failure_of_the_source_is_detected_when_the_early_data_buffer_is_full() {
    let failed = CancellationToken::new();
    let (mut a, source) = pipe(2 * EARLY_BYTES);
    a.write_all(&pattern(EARLY_BYTES + 1, 1)).await.unwrap();
    let mut source = Failing::new(source, &failed, ErrorKind::ConnectionReset);
    let mut early = EarlyData::default();
    let give_up = async {
        sleep(Duration::from_secs(1)).await;
        failed.cancel();
    };
    let (error, ()) = tokio::join!(early.watch(&mut source), give_up);
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(early.bytes.len(), EARLY_BYTES);
}
