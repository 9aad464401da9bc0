//! Copies data between the two streams of a circuit.
//!
//! The directions are independent: the end of one stream closes the write half of the other stream
//! and nothing else. If both sides finish, both streams are closed. If the relay ends the circuit,
//! both streams are dropped without being closed, which the transports turn into a reset, so that
//! truncated data never looks complete.
//!
//! While a side is not read because the other side is blocked, it is polled for failure. A reset or
//! a lost connection ends the circuit at once. If a side has sent all of its data and stops
//! reading, the circuit stays open as long as the data makes progress.

mod failure;
mod timeouts;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures::{AsyncRead, AsyncWrite};
use named_enum::named_enum;
use stream_io::chunk_passing;
use stream_io::deferred_wake;
use stream_io::thread_buffer;
use tokio_util::sync::CancellationToken;

use self::{failure::Grace, timeouts::Activity};
use super::{bandwidth::CircuitLimiter, circuit_state::CircuitState, limits::CircuitLimit};

/// Bytes that are buffered from the source before the circuit is open.
const EARLY_BYTES: usize = 16 * 1024;
/// Reads of one direction in one poll. Then the task yields, so that a busy circuit starves neither
/// other tasks nor its own deadline.
const READS_PER_POLL: usize = 4;
/// How long a circuit stays open after it reached its byte limit, so that a reset does not overtake
/// the bytes within the limit. Over QUIC, a reset discards data that the receiver has not read, and
/// the relay cannot observe when it has been read.
const LIMIT_GRACE: Duration = Duration::from_secs(1);

named_enum! {
    /// Why a circuit ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum EndReason {
        /// Both sides finished.
        Eof = "eof",
        /// One direction reached the byte limit.
        Bytes = "max_bytes",
        /// The circuit reached its duration limit.
        Duration = "max_duration",
        /// The relay shut down.
        Drained = "drained",
        /// One side reset its stream.
        Reset = "reset",
        /// The connection of one side was lost.
        Io = "connection_lost",
        /// The target sent no byte within the unused timeout.
        Unused = "unused",
        /// No byte moved within the idle timeout.
        Idle = "idle",
        /// The circuit was evicted in favour of another one.
        Evicted = "evicted",
    }
}

impl From<io::Error> for EndReason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Io,
        }
    }
}

/// Result of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes written to the target.
    pub to_target: u64,
    /// Bytes written to the source.
    pub to_source: u64,
    /// Why the circuit ended.
    pub end: EndReason,
}

/// Progress of a circuit since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written to the target.
    pub to_target: u64,
    /// Bytes written to the source.
    pub to_source: u64,
    /// Times that a side stopped accepting data, so that the other side was not read.
    pub waits: u64,
}

/// Data of the source that arrived before the circuit was open.
#[derive(Debug, Default)]
pub struct EarlyData {
    bytes: Vec<u8>,
    eof: bool,
}

impl EarlyData {
    /// Buffers data of the source while the circuit is being opened, and detects that the source
    /// has given up, even when the buffer is full. Returns only with an error. Dropping the future
    /// loses no data.
    pub async fn watch<S: AsyncRead + Unpin>(&mut self, source: &mut S) -> io::Error {
        poll_fn(|cx| {
            while !self.eof && self.bytes.len() < EARLY_BYTES {
                let mut chunk = [0; 1024];
                let room = chunk.len().min(EARLY_BYTES - self.bytes.len());
                let Some(chunk) = chunk.get_mut(..room) else {
                    break;
                };
                match ready!(Pin::new(&mut *source).poll_read(cx, chunk)) {
                    Ok(0) => self.eof = true,
                    Ok(n) => self.bytes.extend(chunk.iter().take(n)),
                    Err(error) => return Poll::Ready(error),
                }
            }
            failure::poll_failure(cx, source)
        })
        .await
    }
}

/// One side of a circuit.
#[derive(Debug)]
pub struct Side<S> {
    /// The stream.
    pub stream: S,
    /// Cancelled when the connection of the stream is closed. A stream that is being read reports
    /// this as an error; a stream at EOF does not.
    pub closed: CancellationToken,
}

/// Limits and events that end a circuit, apart from its two sides.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// Duration and byte limit.
    pub limit: CircuitLimit,
    /// Time until the target has to send its first byte.
    pub unused_timeout: Option<Duration>,
    /// Longest time without a byte in either direction, once the target has sent one.
    pub idle_timeout: Option<Duration>,
    /// Cancelled when the relay shuts down.
    pub shutdown: &'a CancellationToken,
    /// Records the first byte of the target; can evict the circuit.
    pub state: &'a CircuitState,
}

/// Copies data in both directions until both sides have finished or one of the `bounds` is reached.
///
/// Calls `on_progress` after each poll that moved bytes. With a `limiter`, reads no more than it
/// grants.
pub async fn relay<S, T>(
    source: Side<S>,
    early: EarlyData,
    target: Side<T>,
    bounds: Bounds<'_>,
    mut limiter: Option<CircuitLimiter>,
    on_progress: impl Fn(Progress),
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Side {
        stream: mut source,
        closed: source_closed,
    } = source;
    let Side {
        stream: mut target,
        closed: target_closed,
    } = target;
    let (mut source_closed, mut target_closed) = (
        pin!(source_closed.cancelled()),
        pin!(target_closed.cancelled()),
    );
    let limit = bounds.limit;
    let mut to_target = Direction::new(limit.bytes, early);
    let mut to_source = Direction::new(limit.bytes, EarlyData::default());
    let activity = Activity::new(bounds.idle_timeout);
    let mut is_used = false;
    let mut grace = Grace::default();

    let copy = async {
        let mut step = |cx: &mut Context<'_>| {
            let (sent, received) = (to_target.moved, to_source.moved);
            let waits = to_target.waits + to_source.waits;
            let (forth, back);
            if limiter
                .as_ref()
                .is_some_and(CircuitLimiter::to_source_first)
            {
                back = to_source.poll(cx, &mut target, &mut source, &mut limiter);
                forth = to_target.poll(cx, &mut source, &mut target, &mut limiter);
            } else {
                forth = to_target.poll(cx, &mut source, &mut target, &mut limiter);
                back = to_source.poll(cx, &mut target, &mut source, &mut limiter);
            }
            if let Some(limiter) = &mut limiter {
                limiter.release();
            }
            let progress = Progress {
                to_target: to_target.moved - sent,
                to_source: to_source.moved - received,
                waits: to_target.waits + to_source.waits - waits,
            };
            if progress != Progress::default() {
                on_progress(progress);
            }
            let has_moved = progress.to_target + progress.to_source > 0;
            if has_moved {
                activity.record();
            }
            if !is_used && to_source.has_read {
                is_used = true;
                bounds.state.mark_used();
            }
            match (forth, back) {
                (Poll::Ready(Err(end)), _) | (_, Poll::Ready(Err(end))) => Poll::Ready(end),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(EndReason::Eof),
                _ if to_target.is_limit_reached() || to_source.is_limit_reached() => {
                    Poll::Ready(EndReason::Bytes)
                }
                _ => {
                    let closed = source_closed.as_mut();
                    let of_source = failure::find(cx, &to_target, &mut source, closed);
                    let closed = target_closed.as_mut();
                    let of_target = failure::find(cx, &to_source, &mut target, closed);
                    grace.poll_end(cx, (of_source, of_target), has_moved)
                }
            }
        };
        // One poll may wake the connections of both sides; deferring the wakes merges them.
        let end = poll_fn(|cx| deferred_wake::defer_wakes(|| step(cx))).await;
        drop(limiter);
        if end == EndReason::Bytes {
            tokio::time::sleep(LIMIT_GRACE).await;
        }
        end
    };
    let end = {
        let (copy, deadline) = (pin!(copy), pin!(timeouts::elapsed_duration(limit)));
        let timeout = pin!(timeouts::elapsed(&bounds, &activity));
        tokio::select! {
            biased;
            () = bounds.shutdown.cancelled() => EndReason::Drained,
            () = bounds.state.evicted().cancelled() => EndReason::Evicted,
            () = deadline => EndReason::Duration,
            end = timeout => end,
            end = copy => end,
        }
    };
    Outcome {
        to_target: to_target.moved,
        to_source: to_source.moved,
        end,
    }
}

/// One direction of a circuit. It buffers data only while the writer is blocked.
struct Direction {
    /// Data that was read but not yet written.
    pending: Bytes,
    /// Bytes of `pending` that were read before the circuit was open and are not charged to the
    /// limiter yet.
    uncharged: u64,
    /// Bytes that may still be read; `None` is unlimited.
    remaining: Option<u64>,
    moved: u64,
    /// Whether the reader has sent a byte since the circuit was opened.
    has_read: bool,
    /// Times that the writer became blocked, and whether it is blocked now.
    waits: u64,
    is_waiting: bool,
    /// Whether the direction waits for the bandwidth limiter.
    awaits_bandwidth: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    /// The reader is at EOF; the writer is being closed.
    Closing,
    Closed,
    /// The reader exceeded the byte limit; the writer is being flushed.
    Flushing,
    /// Everything within the byte limit is flushed.
    LimitReached,
}

impl Direction {
    fn new(room: Option<u64>, early: EarlyData) -> Self {
        let EarlyData {
            bytes: mut rest,
            eof,
        } = early;
        let read = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        let allowed = room.map_or(read, |room| room.min(read));
        let state = match (allowed < read, eof) {
            (true, _) => State::Flushing,
            (false, true) => State::Closing,
            (false, false) => State::Copying,
        };
        rest.truncate(usize::try_from(allowed).unwrap_or(usize::MAX));
        Self {
            pending: rest.into(),
            uncharged: allowed,
            remaining: room.map(|room| room - allowed),
            moved: 0,
            has_read: false,
            waits: 0,
            is_waiting: false,
            awaits_bandwidth: false,
            state,
        }
    }

    fn is_limit_reached(&self) -> bool {
        self.state == State::LimitReached
    }

    /// Whether the reader is not being read: the writer is blocked, the bandwidth is exhausted, or
    /// the reader is at EOF.
    fn is_paused(&self) -> bool {
        self.is_waiting
            || self.awaits_bandwidth
            || matches!(self.state, State::Closing | State::Closed)
    }

    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        limiter: &mut Option<CircuitLimiter>,
    ) -> Poll<Result<(), EndReason>> {
        while self.uncharged > 0 {
            let granted = ready!(self.poll_bandwidth(cx, reader, limiter))?;
            self.uncharged -= consume(limiter, self.uncharged.min(granted));
        }
        for _ in 0..READS_PER_POLL {
            ready!(self.poll_write_pending(cx, writer))?;
            match self.state {
                // No flush: both muxers send written data on their own, and waiting for it would
                // wake this task once more.
                State::Copying => {
                    // The byte that detects the excess over the limit is not relayed.
                    let granted = match self.remaining {
                        Some(0) => 1,
                        _ => ready!(self.poll_bandwidth(cx, reader, limiter))?,
                    };
                    let granted = usize::try_from(granted).unwrap_or(usize::MAX);
                    let most = granted.min(thread_buffer::STEP_BYTES);
                    let read = match self.take_chunk(cx, reader, most) {
                        0 => ready!(thread_buffer::with(most, |buffer| {
                            self.poll_copy(cx, reader, writer, buffer)
                        }))?,
                        taken => taken,
                    };
                    consume(limiter, read);
                }
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_close(cx))?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
                State::Flushing => {
                    ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                    self.state = State::LimitReached;
                }
                State::LimitReached => return Poll::Pending,
            }
        }
        ready!(self.poll_write_pending(cx, writer))?;
        cx.waker().wake_by_ref();
        if let Some(limiter) = limiter {
            limiter.retain();
        }
        Poll::Pending
    }

    /// Bytes that may be read: unlimited without a limiter. While the direction waits for
    /// bandwidth, the reader is polled for failure only.
    fn poll_bandwidth<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        limiter: &mut Option<CircuitLimiter>,
    ) -> Poll<io::Result<u64>> {
        let Some(limiter) = limiter else {
            return Poll::Ready(Ok(u64::MAX));
        };
        let granted = limiter.poll_grant(cx);
        self.awaits_bandwidth = granted.is_pending();
        if self.awaits_bandwidth
            && let Poll::Ready(error) = failure::poll_failure(cx, reader)
            && !failure::is_complete(&error)
        {
            return Poll::Ready(Err(error));
        }
        granted.map(Ok)
    }

    /// Takes a chunk from the reader without a copy, if it provides one. Returns its length.
    fn take_chunk<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        most: usize,
    ) -> u64 {
        let most = self.remaining.map_or(most, |room| {
            usize::try_from(room).unwrap_or(usize::MAX).min(most)
        });
        let chunk = chunk_passing::request_chunk(most, || Pin::new(reader).poll_read(cx, &mut []));
        self.pending = chunk.unwrap_or_default();
        let read = self.pending.len() as u64;
        self.has_read |= read > 0;
        self.remaining = self.remaining.map(|room| room.saturating_sub(read));
        read
    }

    /// Reads once, and writes the data or buffers it. Returns the number of bytes read.
    fn poll_copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        buffer: &mut [u8],
    ) -> Poll<io::Result<u64>> {
        let room = self.remaining.map_or(usize::MAX, |room| {
            usize::try_from(room).unwrap_or(usize::MAX)
        });
        // At the limit, one byte is read to tell EOF from more data. It is never relayed.
        let (space, _) = buffer.split_at_mut(room.max(1).min(buffer.len()));
        let read = ready!(Pin::new(reader).poll_read(cx, space))?;
        self.has_read |= read > 0;
        match read {
            0 => self.state = State::Closing,
            _ if room == 0 => {
                self.state = State::Flushing;
                return Poll::Ready(Ok(0));
            }
            _ => {
                self.remaining = self.remaining.map(|room| room.saturating_sub(read as u64));
                let mut bytes = space.get(..read).unwrap_or_default();
                while !bytes.is_empty() {
                    let Poll::Ready(written) = self.poll_write(cx, writer, bytes)? else {
                        self.pending = Bytes::copy_from_slice(bytes);
                        break;
                    };
                    bytes = bytes.get(written..).unwrap_or_default();
                }
            }
        }
        Poll::Ready(Ok(read as u64))
    }

    fn poll_write_pending<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let pending = self.pending.clone();
            let written =
                chunk_passing::with_chunk(&pending, |bytes| self.poll_write(cx, writer, bytes));
            self.pending.advance(ready!(written)?);
        }
        // An empty slice would keep its backing buffer alive.
        self.pending = Bytes::new();
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = Pin::new(writer).poll_write(cx, bytes) else {
            self.waits += u64::from(!self.is_waiting);
            self.is_waiting = true;
            return Poll::Pending;
        };
        self.is_waiting = false;
        match written? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => {
                self.moved += written as u64;
                Poll::Ready(Ok(written))
            }
        }
    }
}

/// Charges bytes to the limiter, if there is one, and returns their number.
fn consume(limiter: &mut Option<CircuitLimiter>, bytes: u64) -> u64 {
    if let Some(limiter) = limiter {
        limiter.consume(bytes);
    }
    bytes
}

#[cfg(test)]
mod tests;
