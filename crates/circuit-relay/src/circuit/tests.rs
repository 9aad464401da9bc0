use std::sync::atomic::{AtomicU64, Ordering};

use futures::{AsyncReadExt, AsyncWriteExt};
use proptest::prelude::*;
use tokio::io::DuplexStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::*;

mod bandwidth;
mod failures;
mod timeouts;

type Pipe = Compat<DuplexStream>;

/// A pipe of `capacity` bytes: the client's end and the relay's.
fn pipe(capacity: usize) -> (Pipe, Pipe) {
    let (client, relay) = tokio::io::duplex(capacity);
    (client.compat(), relay.compat())
}

fn side<S>(stream: S) -> Side<S> {
    Side {
        stream,
        closed: CancellationToken::new(),
    }
}

fn limit(bytes: Option<u64>, duration: Option<Duration>) -> CircuitLimit {
    CircuitLimit { duration, bytes }
}

/// Bounds of a circuit that has this limit and no timeout.
fn bounds<'a>(
    limit: CircuitLimit,
    shutdown: &'a CancellationToken,
    state: &'a CircuitState,
) -> Bounds<'a> {
    Bounds {
        limit,
        unused_timeout: None,
        idle_timeout: None,
        shutdown,
        state,
    }
}

async fn run<S>(source: S, early: EarlyData, target: S, limit: CircuitLimit) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let total = AtomicU64::new(0);
    let moved = |Progress {
                     to_target: forth,
                     to_source: back,
                     ..
                 }| {
        total.fetch_add(forth + back, Ordering::Relaxed);
    };
    let (shutdown, state) = (CancellationToken::new(), CircuitState::default());
    let bounds = bounds(limit, &shutdown, &state);
    let outcome = relay(side(source), early, side(target), bounds, None, moved).await;
    assert_eq!(total.into_inner(), outcome.to_target + outcome.to_source);
    outcome
}

async fn send_and_close(stream: &mut Pipe, bytes: &[u8]) {
    // The relay may end the circuit in the meantime.
    let _ = stream.write_all(bytes).await;
    let _ = stream.close().await;
}

async fn read_all(stream: &mut Pipe) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n * 31 % 251).unwrap().wrapping_add(seed))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn half_closed_circuit_stays_open() {
    let (mut a, source) = pipe(64);
    let (mut b, target) = pipe(64);
    let circuit = run(source, EarlyData::default(), target, limit(None, None));
    let clients = async {
        a.write_all(b"question").await.unwrap();
        a.close().await.unwrap();
        assert_eq!(read_all(&mut b).await, b"question");
        tokio::time::sleep(Duration::from_secs(1000)).await;
        send_and_close(&mut b, b"answer").await;
        assert_eq!(read_all(&mut a).await, b"answer");
    };
    let (outcome, ()) = tokio::join!(circuit, clients);
    assert_eq!(
        outcome,
        Outcome {
            to_target: 8,
            to_source: 6,
            end: EndReason::Eof
        }
    );
}

#[tokio::test(start_paused = true)]
async fn exactly_the_byte_limit_ends_cleanly_and_one_byte_more_is_cut() {
    for (length, end) in [(1000, EndReason::Eof), (1001, EndReason::Bytes)] {
        let (mut a, source) = pipe(4096);
        let (mut b, target) = pipe(4096);
        let circuit = run(
            source,
            EarlyData::default(),
            target,
            limit(Some(1000), None),
        );
        let sent = pattern(length, 1);
        let clients = async {
            let forth = async {
                send_and_close(&mut a, &sent).await;
                read_all(&mut a).await
            };
            let back = async {
                let received = read_all(&mut b).await;
                b.close().await.unwrap();
                received
            };
            tokio::join!(forth, back).1
        };
        let (outcome, received) = tokio::join!(circuit, clients);
        assert_eq!(received, &sent[..1000]);
        assert_eq!(
            outcome,
            Outcome {
                to_target: 1000,
                to_source: 0,
                end
            }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn byte_limit_applies_to_each_direction() {
    let (mut a, source) = pipe(4096);
    let (mut b, target) = pipe(4096);
    let circuit = run(
        source,
        EarlyData::default(),
        target,
        limit(Some(1000), None),
    );
    let (forth, back) = (pattern(1000, 1), pattern(1000, 2));
    let clients = async {
        send_and_close(&mut a, &forth).await;
        send_and_close(&mut b, &back).await;
        (read_all(&mut a).await, read_all(&mut b).await)
    };
    let (outcome, (at_a, at_b)) = tokio::join!(circuit, clients);
    assert_eq!((at_a, at_b), (back, forth));
    assert_eq!(
        outcome,
        Outcome {
            to_target: 1000,
            to_source: 1000,
            end: EndReason::Eof
        }
    );
}

#[tokio::test]
async fn duration_limit_applies_to_a_busy_circuit() {
    let (mut a, source) = pipe(64 * 1024);
    let (mut b, target) = pipe(64 * 1024);
    let circuit = run(
        source,
        EarlyData::default(),
        target,
        limit(None, Some(Duration::from_millis(100))),
    );
    let chunk = vec![7; 8192];
    let write = async { while a.write_all(&chunk).await.is_ok() {} };
    let read = async {
        let mut sink = vec![0; 8192];
        while b.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    };
    let (outcome, (), ()) = tokio::join!(circuit, write, read);
    assert_eq!(outcome.end, EndReason::Duration);
    assert!(outcome.to_target > 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_a_circuit_at_once() {
    let (_a, source) = pipe(64);
    let (_b, target) = pipe(64);
    let (cut, state) = (CancellationToken::new(), CircuitState::default());
    let bounds = bounds(limit(None, None), &cut, &state);
    let early = EarlyData::default();
    let circuit = relay(side(source), early, side(target), bounds, None, |_| ());
    let (outcome, ()) = tokio::join!(circuit, async { cut.cancel() });
    assert_eq!(outcome.end, EndReason::Drained);
}

#[tokio::test(start_paused = true)]
async fn lost_connection_of_a_finished_side_is_detected() {
    for early in [false, true] {
        let (mut a, source) = pipe(64);
        let (_b, target) = pipe(64);
        let source = side(source);
        let closed = source.closed.clone();
        let (shutdown, state) = (CancellationToken::new(), CircuitState::default());
        let bounds = bounds(limit(None, None), &shutdown, &state);
        let circuit = relay(
            source,
            EarlyData::default(),
            side(target),
            bounds,
            None,
            |_| (),
        );
        let client = async {
            if early {
                closed.cancel();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // Until EOF, the stream itself reports the loss.
            a.close().await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            closed.cancel();
        };
        let (outcome, ()) = tokio::join!(circuit, client);
        assert_eq!(outcome.end, EndReason::Io);
    }
}

#[tokio::test(start_paused = true)]
async fn early_data_comes_first_and_counts_for_the_limit() {
    for (bytes, end) in [
        (None, EndReason::Eof),
        (Some(12), EndReason::Eof),
        (Some(3), EndReason::Bytes),
    ] {
        let (mut a, mut source) = pipe(64);
        let (mut b, target) = pipe(64);
        a.write_all(b"early ").await.unwrap();
        let mut early = EarlyData::default();
        tokio::select! {
            biased;
            _ = early.watch(&mut source) => panic!("the source has not failed"),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let circuit = run(source, early, target, limit(bytes, None));
        let clients = async {
            send_and_close(&mut a, b"data!!").await;
            let received = read_all(&mut b).await;
            b.close().await.unwrap();
            received
        };
        let (outcome, received) = tokio::join!(circuit, clients);
        let expected = &b"early data!!"[..bytes.map_or(12, |b| usize::try_from(b).unwrap())];
        assert_eq!(received, expected);
        assert_eq!(outcome.end, end);
    }
}

#[tokio::test(start_paused = true)]
async fn eof_of_the_source_is_not_a_failure_while_the_circuit_is_opened() {
    let (a, mut source) = pipe(64);
    drop(a);
    // The in-memory pipe reports EOF where a muxer reports a reset. EOF is not a failure.
    let mut early = EarlyData::default();
    let gave_up = tokio::time::timeout(Duration::from_secs(1), early.watch(&mut source)).await;
    assert!(gave_up.is_err());
    assert!(early.eof);
}

/// A stream that can provide and accept chunks without a copy.
struct ChunkStream {
    stream: Pipe,
    passes_chunks: bool,
}

impl AsyncRead for ChunkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let wanted = chunk_passing::requested_len().filter(|_| self.passes_chunks);
        let Some(max) = wanted else {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        };
        assert!(buf.is_empty());
        let mut piece = vec![0; max];
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        piece.truncate(read);
        if read > 0 {
            chunk_passing::provide_chunk(piece.into());
        }
        Poll::Ready(Ok(0))
    }
}

impl AsyncWrite for ChunkStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let piece = chunk_passing::accept_chunk(buf).filter(|_| self.passes_chunks);
        let bytes = piece.as_deref().unwrap_or(buf);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[derive(Clone, Debug)]
struct Traffic {
    length: usize,
    capacity: usize,
    chunk: usize,
}

fn traffic() -> impl Strategy<Value = Traffic> {
    (0..60_000usize, 1..20_000usize, 1..20_000usize).prop_map(|(length, capacity, chunk)| Traffic {
        length,
        capacity,
        chunk,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The received data is a prefix of the sent data, never beyond the limit, and complete if the
    /// circuit ends cleanly.
    #[test]
    fn circuit_delivers_a_prefix(
        forth in traffic(),
        back in traffic(),
        bytes in prop::option::of(0..60_000u64),
        passes_chunks in any::<(bool, bool)>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (mut a, source) = pipe(forth.capacity);
            let (mut b, target) = pipe(back.capacity);
            let source = ChunkStream { stream: source, passes_chunks: passes_chunks.0 };
            let target = ChunkStream { stream: target, passes_chunks: passes_chunks.1 };
            let circuit = run(source, EarlyData::default(), target, limit(bytes, None));
            let (at, bt) = (pattern(forth.length, 3), pattern(back.length, 5));
            let client = async |stream: &mut Pipe, data: &[u8], chunk: usize| {
                let (mut reader, mut writer) = stream.split();
                let write = async {
                    for part in data.chunks(chunk) {
                        if writer.write_all(part).await.is_err() {
                            return;
                        }
                    }
                    let _ = writer.close().await;
                };
                let read = async {
                    let mut received = Vec::new();
                    let _ = reader.read_to_end(&mut received).await;
                    received
                };
                tokio::join!(write, read).1
            };
            let (outcome, from_b, from_a) = tokio::join!(
                circuit,
                client(&mut a, &at, forth.chunk),
                client(&mut b, &bt, back.chunk),
            );
            let fits = bytes.is_none_or(|max| at.len() as u64 <= max && bt.len() as u64 <= max);
            prop_assert_eq!(outcome.end, if fits { EndReason::Eof } else { EndReason::Bytes });
            for (received, sent, moved) in
                [(&from_a, &at, outcome.to_target), (&from_b, &bt, outcome.to_source)]
            {
                prop_assert!(sent.starts_with(received));
                prop_assert!(received.len() as u64 <= bytes.unwrap_or(u64::MAX));
                prop_assert_eq!(received.len() as u64, moved);
                if fits {
                    prop_assert_eq!(received.len(), sent.len());
                }
            }
            Ok(())
        })?;
    }
}
