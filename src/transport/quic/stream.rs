//! One bidirectional stream.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::{BoxFuture, Fuse, FutureExt, TryFutureExt};
use futures::{AsyncRead, AsyncWrite};
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};

use tokio::time::{Instant, Sleep, sleep};

use super::flow_control::StreamBuffers;
use super::send_window::SendWindow;
use crate::chunk_passing;

/// More than a packet carries of a stream. quinn has longer chunks only where it put together many
/// that were too short.
const MAX_PACKET_DATA: usize = 1452;

/// As many packets make a chunk: 32 KiB, which is the most that a thread of the allocator's keeps to
/// use again.
const MAX_PACKETS_PER_CHUNK: usize = 32 * 1024 / MAX_PACKET_DATA;

/// How often a stream that is not read is looked at for a reset.
const RESET_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// One bidirectional stream of a QUIC connection.
///
/// It keeps apart what is complete from what was cut (RFC 9000, section 3):
///
/// - The end of the data is read (`Ok(0)`) only if the peer finished its side. A reset by the peer
///   is [`ConnectionReset`](io::ErrorKind::ConnectionReset), the loss of the connection
///   [`ConnectionAborted`](io::ErrorKind::ConnectionAborted).
/// - `close` finishes our side, and waits until the peer has acknowledged all of it: who closes in
///   order to end the connection afterwards must not do so while data is on its way. Who does not
///   wait may drop the stream: the data is delivered all the same, unless the connection ends first.
/// - A stream that is dropped without `close` is reset, and what was not sent is not sent any more.
///   A peer that still sends is asked to stop.
/// - Writing to a peer that asked us to stop is [`BrokenPipe`](io::ErrorKind::BrokenPipe).
/// - A read of length zero reads nothing. It is ready when the stream has failed: with the failure,
///   even if data is left to be read. [`BrokenPipe`](io::ErrorKind::BrokenPipe) means that the peer
///   asked us to stop and has not reset its own side: what it has sent can still be read. A reset
///   without a request to stop is noticed within a second while data is left.
///   While a chunk is [wanted](chunk_passing), it reads one instead.
pub struct Stream {
    send: SendStream,
    recv: RecvStream,
    /// What was taken of quinn, and was more than the chunk that was wanted.
    surplus: Bytes,
    send_state: SendState,
    /// quinn tells a reset once, and from then on reports the end of the data.
    reset: bool,
    /// There is none until somebody waits for a failure.
    stopped: Option<Fuse<Stopped>>,
    /// Whether the peer has asked us to stop; known only to those who wait for a failure.
    is_stopped: bool,
    /// When to look for a reset again. There is none until a failure is waited for while data is
    /// left to be read.
    reset_check: Option<Pin<Box<Sleep>>>,
    unacked: UnackedStreams,
    buffers: StreamBuffers,
    send_window: SendWindow,
}

/// The peer wants no more, or there is no more to send.
type Stopped = BoxFuture<'static, Result<Option<VarInt>, StoppedError>>;

impl Stream {
    pub(super) fn new(
        send: SendStream,
        recv: RecvStream,
        unacked: UnackedStreams,
        buffers: StreamBuffers,
        send_window: SendWindow,
    ) -> Self {
        Self {
            send,
            recv,
            surplus: Bytes::new(),
            send_state: SendState::Ready,
            reset: false,
            stopped: None,
            is_stopped: false,
            reset_check: None,
            unacked,
            buffers,
            send_window,
        }
    }

    /// Takes what has come, up to `max` bytes, as one chunk; an empty one at the end.
    pub(super) fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<Bytes>> {
        if self.surplus.is_empty() {
            let mut packets = [const { Bytes::new() }; MAX_PACKETS_PER_CHUNK];
            let most = (max / MAX_PACKET_DATA).clamp(1, MAX_PACKETS_PER_CHUNK);
            let (wanted, _) = packets.split_at_mut(most);
            let Poll::Ready(taken) = pin!(self.recv.read_chunks(wanted)).poll(cx) else {
                return self.wait_for_data(cx);
            };
            self.reset = matches!(taken, Err(ReadError::Reset(_)));
            if !matches!(taken, Ok(Some(_))) {
                self.buffers.set_read();
            }
            taken.map_err(read_error)?;
            // All are copied, and then all are let go: each of that is a locked instruction, and the
            // processor fetches no next packet while it waits for one to end.
            self.surplus = packets.concat().into();
            if !self.surplus.is_empty() {
                let chunks = packets.iter().filter(|packet| !packet.is_empty()).count();
                self.buffers.read(self.surplus.len(), chunks);
            }
        }
        let length = max.min(self.surplus.len());
        Poll::Ready(Ok(self.surplus.split_to(length)))
    }

    /// Nothing has come. Ready with a failure if memory has run out.
    fn wait_for_data<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.buffers.wait_for_data(cx) {
            self.reset_for_memory()
        } else {
            Poll::Pending
        }
    }

    /// Resets both sides, as there is no memory for what they hold.
    fn reset_for_memory<T>(&mut self) -> Poll<io::Result<T>> {
        // They fail only if they have ended already.
        let _ = self.send.reset(0_u8.into());
        let _ = self.recv.stop(0_u8.into());
        self.surplus = Bytes::new();
        self.send_state = SendState::Terminal;
        self.reset = true;
        self.buffers.set_read();
        Poll::Ready(Err(out_of_memory()))
    }

    /// Ready when the stream has failed, whatever is left to be read.
    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // A peer that resets its side asks us to stop as well, in general: that wakes. The loss of
        // the connection does in any case.
        let stopped = self
            .stopped
            .get_or_insert_with(|| self.send.stopped().boxed().fuse());
        match stopped.poll_unpin(cx) {
            Poll::Ready(Err(error)) => {
                let error = io::Error::new(io::ErrorKind::ConnectionAborted, error);
                return Poll::Ready(error);
            }
            Poll::Ready(Ok(Some(_code))) => self.is_stopped = true,
            Poll::Ready(Ok(None)) | Poll::Pending => {}
        }
        // Not `received_reset`: what it registers stays behind when all is read later.
        let nothing = pin!(self.recv.read_chunk(0, true)).poll(cx);
        match nothing {
            Poll::Ready(Err(error)) => {
                self.reset = matches!(error, ReadError::Reset(_));
                return Poll::Ready(read_error(error));
            }
            Poll::Ready(Ok(Some(_))) => self.schedule_reset_check(cx),
            Poll::Ready(Ok(None)) | Poll::Pending => {}
        }
        if self.buffers.wait_for_reset(cx) {
            return self.reset_for_memory::<()>().map(|_| out_of_memory());
        }
        // `stopped` has told only that the peer does not read any more.
        if self.is_stopped
            && let Some(lost) = self.send_window.close_reason()
        {
            return Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, lost));
        }
        if self.is_stopped {
            let error = "the peer does not read the stream any more";
            return Poll::Ready(io::Error::new(io::ErrorKind::BrokenPipe, error));
        }
        Poll::Pending
    }

    /// Wakes the task again after an interval: quinn reports a reset to nobody while data is left
    /// to be read.
    fn schedule_reset_check(&mut self, cx: &mut Context<'_>) {
        let check = self
            .reset_check
            .get_or_insert_with(|| Box::pin(sleep(RESET_CHECK_INTERVAL)));
        while check.as_mut().poll(cx).is_ready() {
            check.as_mut().reset(Instant::now() + RESET_CHECK_INTERVAL);
        }
    }
}

/// How far our side is.
enum SendState {
    Ready,
    /// It is finished, and the peer does not have all of it yet.
    DataSent(AllAcked),
    /// The peer has everything, or does not want it.
    Terminal,
}

type AllAcked = BoxFuture<'static, Result<(), StoppedError>>;

/// The streams of a connection that are finished and gone here, and that the peer has not
/// acknowledged to their end yet. There are no more of them than a peer allows streams at once.
#[derive(Clone, Default)]
pub(super) struct UnackedStreams(Arc<Mutex<Vec<AllAcked>>>);

impl UnackedStreams {
    /// How many streams of the connection there are: each has a clone.
    pub(super) fn streams(&self) -> usize {
        Arc::strong_count(&self.0).saturating_sub(1)
    }

    fn push(&self, mut all_acked: AllAcked) {
        if (&mut all_acked).now_or_never().is_none() {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain_mut(|all_acked| all_acked.now_or_never().is_none());
            waiting.push(all_acked);
        }
    }

    /// Ready when the peer has everything, or the connection is lost.
    pub(super) fn poll_acked(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain_mut(|all_acked| all_acked.poll_unpin(cx).is_pending());
        if waiting.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.buffers.is_reset() {
            return self.reset_for_memory();
        }
        if buf.is_empty() {
            let Some(max) = chunk_passing::requested_len() else {
                return self.poll_failure(cx).map(Err);
            };
            let chunk = ready!(self.poll_chunk(cx, max))?;
            if !chunk.is_empty() {
                chunk_passing::provide_chunk(chunk);
            }
            return Poll::Ready(Ok(0));
        }
        if !self.surplus.is_empty() {
            let (room, _) = buf.split_at_mut(self.surplus.len().min(buf.len()));
            self.surplus.copy_to_slice(room);
            return Poll::Ready(Ok(room.len()));
        }
        let Poll::Ready(result) = self.recv.poll_read(cx, buf) else {
            return self.wait_for_data(cx);
        };
        self.reset = matches!(result, Err(ReadError::Reset(_)));
        match result {
            Ok(read @ 1..) => self.buffers.read(read, read / MAX_PACKET_DATA),
            _ => self.buffers.set_read(),
        }
        Poll::Ready(result.map_err(read_error))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.buffers.is_reset() {
            return if self.reset {
                Poll::Ready(Err(out_of_memory()))
            } else {
                self.reset_for_memory()
            };
        }
        let result = match chunk_passing::accept_chunk(buf) {
            Some(chunk) => {
                let mut chunks = [chunk];
                let writing = pin!(self.send.write_chunks(&mut chunks));
                writing.poll(cx).map_ok(|written| written.bytes)
            }
            None => Pin::new(&mut self.send).poll_write(cx, buf),
        };
        let Poll::Ready(result) = result else {
            return if self.buffers.wait_for_room(cx) {
                self.reset_for_memory()
            } else {
                Poll::Pending
            };
        };
        let written = result.map_err(write_error)?;
        self.buffers.written(written);
        self.send_window.on_sent(written);
        Poll::Ready(Ok(written))
    }

    /// quinn sends on its own: there is nothing to push.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffers.is_reset() {
            return if self.reset {
                Poll::Ready(Err(out_of_memory()))
            } else {
                self.reset_for_memory()
            };
        }
        if let SendState::Ready = self.send_state {
            self.send.finish().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.send_state = SendState::DataSent(self.send.stopped().map_ok(|_| ()).boxed());
        }
        if let SendState::DataSent(all_acked) = &mut self.send_state {
            let delivered = ready!(all_acked.poll_unpin(cx));
            self.send_state = SendState::Terminal;
            delivered.map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.send_state, SendState::Terminal) {
            SendState::Ready => {
                // It fails only if the stream has ended already.
                let _ = self.send.reset(0_u8.into());
            }
            SendState::DataSent(all_acked) => self.unacked.push(all_acked),
            SendState::Terminal => {}
        }
    }
}

fn out_of_memory() -> io::Error {
    let cause = "there is no memory for what the stream holds";
    io::Error::new(io::ErrorKind::ConnectionReset, cause)
}

fn read_error(error: ReadError) -> io::Error {
    let kind = match error {
        ReadError::Reset(_) => io::ErrorKind::ConnectionReset,
        ReadError::ConnectionLost(_) => io::ErrorKind::ConnectionAborted,
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            io::ErrorKind::Other
        }
    };
    io::Error::new(kind, error)
}

fn write_error(error: WriteError) -> io::Error {
    let kind = match error {
        WriteError::Stopped(_) | WriteError::ClosedStream => io::ErrorKind::BrokenPipe,
        WriteError::ConnectionLost(_) => io::ErrorKind::ConnectionAborted,
        WriteError::ZeroRttRejected => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
