//! The copy between the two streams of a circuit.
//!
//! Each direction is on its own: the end of one stream closes the other one's write half and
//! nothing else. A circuit that both sides finish ends with both streams closed. A circuit that is
//! *cut* ends with both streams dropped unclosed, which the transports turn into a reset: data that
//! is missing must never look complete.
//!
//! A side that is not read, because the other side takes nothing, is polled for failure. A reset and
//! a lost connection end the circuit at once. A side that has sent all of its data and reads no more
//! leaves the circuit open as long as the data makes progress.

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
use tokio_util::sync::CancellationToken;

use self::{
    failure::{Failure, Grace},
    timeouts::Activity,
};
use super::{bandwidth::CircuitLimiter, circuit_state::CircuitState, limits::CircuitLimit};
use crate::{handover, late, named_enum::named_enum, scratch};

/// How much the source may send before the circuit is open, in bytes.
const EARLY_BYTES: usize = 16 * 1024;
/// How often one direction reads before it lets other tasks run, so that a busy circuit neither
/// starves them nor its own deadline.
const READS_PER_TURN: usize = 4;
/// How long a circuit that went over its byte limit stays open: the bytes within the limit are on
/// their way to the reader, and a reset must not overtake them. Over QUIC it would: a reset there
/// discards whatever the reader has not taken yet, and nothing tells the relay when it has.
const CUT_GRACE: Duration = Duration::from_secs(1);

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

/// What a circuit carried, and why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that the target was given.
    pub to_target: u64,
    /// Bytes that the source was given.
    pub to_source: u64,
    /// Why it ended.
    pub end: EndReason,
}

/// What has happened on a circuit since it was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the target was given.
    pub to_target: u64,
    /// Bytes that the source was given.
    pub to_source: u64,
    /// Times that a side took no more, so that the other one was not read until it did.
    pub waits: u64,
}

/// What the source sent before the circuit was open.
#[derive(Debug, Default)]
pub struct EarlyData {
    bytes: Vec<u8>,
    eof: bool,
}

impl EarlyData {
    /// Reads what the source sends meanwhile, so that a source that gives up is noticed at once,
    /// also when it has sent more than is kept. Ends with an error only; drop it when the circuit is
    /// ready, nothing that was read is lost.
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
    /// Its stream.
    pub stream: S,
    /// Cancelled when the connection below the stream is gone. A stream that is read reports that
    /// itself; one that is at its end does not.
    pub gone: CancellationToken,
}

/// What ends a circuit besides its two sides.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// How long it may stay open, and how much it may carry.
    pub limit: CircuitLimit,
    /// How long it may stay open until the target has sent the first byte.
    pub unused_timeout: Option<Duration>,
    /// How long it may stay open without a byte in either direction, once the target has sent one.
    pub idle_timeout: Option<Duration>,
    /// Cancelled when the relay shuts down.
    pub shutdown: &'a CancellationToken,
    /// Records the first byte of the target, and may evict the circuit.
    pub state: &'a CircuitState,
}

/// Copies until both sides have finished, or one of the `bounds` is reached.
///
/// `moved` is called with all bytes as they are handed over. With a `limiter`, no more is read than it
/// grants.
pub async fn relay<S, T>(
    source: Side<S>,
    early: EarlyData,
    target: Side<T>,
    bounds: Bounds<'_>,
    mut limiter: Option<CircuitLimiter>,
    moved: impl Fn(Progress),
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Side {
        stream: mut source,
        gone: source_gone,
    } = source;
    let Side {
        stream: mut target,
        gone: target_gone,
    } = target;
    let (mut source_gone, mut target_gone) =
        (pin!(source_gone.cancelled()), pin!(target_gone.cancelled()));
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
                moved(progress);
            }
            let has_moved = progress.to_target + progress.to_source > 0;
            if has_moved {
                activity.note();
            }
            if !is_used && to_source.has_read {
                is_used = true;
                bounds.state.mark_used();
            }
            match (forth, back) {
                (Poll::Ready(Err(end)), _) | (_, Poll::Ready(Err(end))) => Poll::Ready(end),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(EndReason::Eof),
                _ if to_target.is_over() || to_source.is_over() => Poll::Ready(EndReason::Bytes),
                _ => {
                    let gone = source_gone.as_mut();
                    let of_source = failure::find(cx, &to_target, &mut source, gone);
                    let gone = target_gone.as_mut();
                    let of_target = failure::find(cx, &to_source, &mut target, gone);
                    match (of_source, of_target) {
                        (Some(Failure::Ended(end)), _) | (_, Some(Failure::Ended(end))) => {
                            Poll::Ready(end)
                        }
                        (Some(Failure::Unread(end)), _) | (_, Some(Failure::Unread(end))) => {
                            grace.poll(cx, has_moved).map(|()| end)
                        }
                        (None, None) => {
                            grace.clear();
                            Poll::Pending
                        }
                    }
                }
            }
        };
        // Each piece may wake the connections that it came from and goes to.
        let both = poll_fn(|cx| late::turn(|| step(cx))).await;
        drop(limiter);
        if both == EndReason::Bytes {
            tokio::time::sleep(CUT_GRACE).await;
        }
        both
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

/// One direction of a circuit. It holds bytes only while the writer takes none.
struct Direction {
    /// What was read and is not written.
    rest: Bytes,
    /// Bytes of `rest` that were read before there was a circuit, and are not granted yet.
    uncharged: u64,
    /// Bytes that may still be read; `None` is unlimited.
    room: Option<u64>,
    moved: u64,
    /// Whether the reader has sent anything since there is a circuit.
    has_read: bool,
    /// How often the writer took no more, and whether it takes none now.
    waits: u64,
    is_waiting: bool,
    /// Whether it waits for its turn in the bandwidth.
    awaits_bandwidth: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    /// The reader is at its end; the writer is being closed.
    Closing,
    Closed,
    /// The reader has more than may be carried; the writer is being flushed.
    Over,
    /// The writer has everything that may be carried.
    Full,
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
            (true, _) => State::Over,
            (false, true) => State::Closing,
            (false, false) => State::Copying,
        };
        rest.truncate(usize::try_from(allowed).unwrap_or(usize::MAX));
        Self {
            rest: rest.into(),
            uncharged: allowed,
            room: room.map(|room| room - allowed),
            moved: 0,
            has_read: false,
            waits: 0,
            is_waiting: false,
            awaits_bandwidth: false,
            state,
        }
    }

    fn is_over(&self) -> bool {
        self.state == State::Full
    }

    /// Whether the reader is not read: the writer takes nothing, or the reader is at its end.
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
        for _ in 0..READS_PER_TURN {
            ready!(self.poll_write_rest(cx, writer))?;
            match self.state {
                // Nothing is flushed here: both muxers send by themselves what they were given, and
                // to hear of it would only wake this task once more.
                State::Copying => {
                    // The byte that tells whether there is more than the limit is not relayed.
                    let granted = match self.room {
                        Some(0) => 1,
                        _ => ready!(self.poll_bandwidth(cx, reader, limiter))?,
                    };
                    let granted = usize::try_from(granted).unwrap_or(usize::MAX);
                    let most = granted.min(scratch::STEP_BYTES);
                    let read = match self.take_chunk(cx, reader, most) {
                        0 => ready!(scratch::with(most, |buffer| {
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
                State::Over => {
                    ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                    self.state = State::Full;
                }
                State::Full => return Poll::Pending,
            }
        }
        ready!(self.poll_write_rest(cx, writer))?;
        cx.waker().wake_by_ref();
        if let Some(limiter) = limiter {
            limiter.retain();
        }
        Poll::Pending
    }

    /// How many bytes may be read: all, without a limiter. While the direction waits for its turn,
    /// nothing is read, but a failure of the reader is known at once.
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

    /// Takes a piece from the reader, if it has one, to be written next. Gives how much that is.
    fn take_chunk<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        most: usize,
    ) -> u64 {
        let most = self.room.map_or(most, |room| {
            usize::try_from(room).unwrap_or(usize::MAX).min(most)
        });
        let piece = handover::take(most, || Pin::new(reader).poll_read(cx, &mut []));
        self.rest = piece.unwrap_or_default();
        let read = self.rest.len() as u64;
        self.has_read |= read > 0;
        self.room = self.room.map(|room| room.saturating_sub(read));
        read
    }

    /// Reads once, and writes what was read, or keeps it. Gives how much that is.
    fn poll_copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        buffer: &mut [u8],
    ) -> Poll<io::Result<u64>> {
        let room = self.room.map_or(usize::MAX, |room| {
            usize::try_from(room).unwrap_or(usize::MAX)
        });
        // At the limit, one byte tells whether the reader is at its end or has more to say. It is
        // never passed on.
        let (space, _) = buffer.split_at_mut(room.max(1).min(buffer.len()));
        let read = ready!(Pin::new(reader).poll_read(cx, space))?;
        self.has_read |= read > 0;
        match read {
            0 => self.state = State::Closing,
            _ if room == 0 => {
                self.state = State::Over;
                return Poll::Ready(Ok(0));
            }
            _ => {
                self.room = self.room.map(|room| room.saturating_sub(read as u64));
                let mut bytes = space.get(..read).unwrap_or_default();
                while !bytes.is_empty() {
                    let Poll::Ready(written) = self.poll_write(cx, writer, bytes)? else {
                        self.rest = Bytes::copy_from_slice(bytes);
                        break;
                    };
                    bytes = bytes.get(written..).unwrap_or_default();
                }
            }
        }
        Poll::Ready(Ok(read as u64))
    }

    fn poll_write_rest<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let rest = self.rest.clone();
            let written = handover::offer(&rest, |bytes| self.poll_write(cx, writer, bytes));
            self.rest.advance(ready!(written)?);
        }
        // An empty slice still holds what it is a part of.
        self.rest = Bytes::new();
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

/// So many bytes of the grant are used; gives them.
fn consume(limiter: &mut Option<CircuitLimiter>, bytes: u64) -> u64 {
    if let Some(limiter) = limiter {
        limiter.consume(bytes);
    }
    bytes
}

#[cfg(test)]
mod tests;
