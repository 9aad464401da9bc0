//! A bidirectional stream.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::{BoxFuture, Fuse, FutureExt, TryFutureExt};
use futures::{AsyncRead, AsyncWrite};
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use stream_io::chunk_passing;
use tokio::time::{Instant, Sleep, sleep};

use super::flow_control::StreamBuffers;
use super::send_window::SendWindow;

/// The maximum number of bytes of stream data in a packet. quinn's chunks are longer only where it has
/// merged many short ones.
const MAX_PACKET_DATA: usize = 1452;

/// The maximum number of packets that are merged into a chunk: 32 KiB, the largest allocation that the
/// allocator caches per thread.
const MAX_PACKETS_PER_CHUNK: usize = 32 * 1024 / MAX_PACKET_DATA;

/// The interval in which a stream that is not read is polled for a reset.
const RESET_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A bidirectional stream of a QUIC connection.
///
/// It distinguishes complete from truncated data (RFC 9000, section 3):
///
/// - Reads return end-of-file (`Ok(0)`) only if the peer has finished its side. A reset by the peer is
///   [`ConnectionReset`](io::ErrorKind::ConnectionReset), the loss of the connection is
///   [`ConnectionAborted`](io::ErrorKind::ConnectionAborted).
/// - `close` finishes our side, and waits until the peer has acknowledged all data: closing the
///   connection before that would lose data. The stream may be dropped without waiting; the data is
///   delivered nevertheless, unless the connection ends first.
/// - A stream that is dropped without `close` is reset, and data that was not sent is discarded. If the
///   peer has not finished its side, it gets `STOP_SENDING`.
/// - Writing after `STOP_SENDING` from the peer is [`BrokenPipe`](io::ErrorKind::BrokenPipe).
/// - A read with an empty buffer is ready once the stream has failed, with the error, even if data is
///   left to be read. [`BrokenPipe`](io::ErrorKind::BrokenPipe) means that the peer has sent
///   `STOP_SENDING` and has not reset its side, so its data can still be read. A reset without
///   `STOP_SENDING` is noticed within a second while data is left.
///   If a chunk is [requested](chunk_passing), such a read provides one instead.
pub struct Stream {
    send: SendStream,
    recv: RecvStream,
    /// Data that was read from quinn beyond the requested chunk. Read before anything else.
    surplus: Bytes,
    send_state: SendState,
    /// Whether the stream was reset. Stored because quinn reports a reset once, and end-of-file from
    /// then on.
    reset: bool,
    /// Resolves upon `STOP_SENDING`. Created by the first read with an empty buffer.
    stopped: Option<Fuse<Stopped>>,
    /// Whether `STOP_SENDING` was received; only updated by reads with an empty buffer.
    is_stopped: bool,
    /// The timer of the next poll for a reset. Created when a read with an empty buffer finds unread
    /// data.
    reset_check: Option<Pin<Box<Sleep>>>,
    unacked: UnackedStreams,
    buffers: StreamBuffers,
    send_window: SendWindow,
}

/// Resolves when the peer has sent `STOP_SENDING`, or has acknowledged all data.
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

    /// Reads the data that has arrived, up to `max` bytes, as one chunk. It is empty at the end of the
    /// stream.
    pub(super) fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<Bytes>> {
        if self.surplus.is_empty() {
            let mut packets = [const { Bytes::new() }; MAX_PACKETS_PER_CHUNK];
            let limit = (max / MAX_PACKET_DATA).clamp(1, MAX_PACKETS_PER_CHUNK);
            let (wanted, _) = packets.split_at_mut(limit);
            let Poll::Ready(taken) = pin!(self.recv.read_chunks(wanted)).poll(cx) else {
                return self.wait_for_data(cx);
            };
            self.reset = matches!(taken, Err(ReadError::Reset(_)));
            if !matches!(taken, Ok(Some(_))) {
                self.buffers.set_read();
            }
            taken.map_err(read_error)?;
            // All packets are copied before any is dropped: each drop is a locked instruction, which
            // would keep the processor from prefetching the next packet.
            self.surplus = packets.concat().into();
            if !self.surplus.is_empty() {
                let chunks = packets.iter().filter(|packet| !packet.is_empty()).count();
                self.buffers.read(self.surplus.len(), chunks);
            }
        }
        let length = max.min(self.surplus.len());
        Poll::Ready(Ok(self.surplus.split_to(length)))
    }

    /// Waits for data, or for relief. Ready with an error if the stream has to be reset to free memory.
    fn wait_for_data<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.buffers.wait_for_data(cx) {
            self.reset_for_memory()
        } else {
            Poll::Pending
        }
    }

    /// Resets both sides to free memory.
    ///
    /// Afterwards `reset` and `send_state` are final: reads report the reset, and dropping the stream
    /// sends nothing more.
    fn reset_for_memory<T>(&mut self) -> Poll<io::Result<T>> {
        // Each fails only if its side has ended already.
        let _ = self.send.reset(0_u8.into());
        let _ = self.recv.stop(0_u8.into());
        self.surplus = Bytes::new();
        self.send_state = SendState::Terminal;
        self.reset = true;
        self.buffers.set_read();
        Poll::Ready(Err(out_of_memory()))
    }

    /// Ready with an error once the stream has failed, even if data is left to be read.
    ///
    /// The order of the checks is the priority of the errors: the loss of the connection, a reset,
    /// relief, `STOP_SENDING`.
    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Implementations that reset a stream usually send STOP_SENDING as well, which wakes this
        // task. So does the loss of the connection.
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
        // A read of zero bytes reports a reset. `received_reset` does too, but the waker that it
        // registers is left behind once all data was read.
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
        // After STOP_SENDING, `stopped` is fused and no longer reports the loss of the connection.
        if self.is_stopped
            && let Some(lost) = self.send_window.close_reason()
        {
            return Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, lost));
        }
        if self.is_stopped {
            let error = "the peer has stopped reading the stream";
            return Poll::Ready(io::Error::new(io::ErrorKind::BrokenPipe, error));
        }
        Poll::Pending
    }

    /// Wakes the task after an interval: while data is left to be read, quinn wakes no task upon a
    /// reset.
    fn schedule_reset_check(&mut self, cx: &mut Context<'_>) {
        let check = self
            .reset_check
            .get_or_insert_with(|| Box::pin(sleep(RESET_CHECK_INTERVAL)));
        while check.as_mut().poll(cx).is_ready() {
            check.as_mut().reset(Instant::now() + RESET_CHECK_INTERVAL);
        }
    }
}

/// The state of the sending side, with the names of RFC 9000, section 3.1. It only moves forward.
enum SendState {
    /// Not finished.
    Ready,
    /// Finished; FIN or data is not acknowledged.
    DataSent(AllAcked),
    /// "Data Recvd" or a reset: everything is acknowledged, or the peer does not want it.
    Terminal,
}

/// Resolves when the peer has acknowledged all data and FIN, or has sent `STOP_SENDING`.
type AllAcked = BoxFuture<'static, Result<(), StoppedError>>;

/// The streams of a connection that were finished and dropped, and are not completely acknowledged. Their
/// number is bounded by the limit of concurrent streams.
#[derive(Clone, Default)]
pub(super) struct UnackedStreams(Arc<Mutex<Vec<AllAcked>>>);

impl UnackedStreams {
    /// The number of streams of the connection. Each has a clone, and so has the connection.
    pub(super) fn streams(&self) -> usize {
        Arc::strong_count(&self.0).saturating_sub(1)
    }

    fn push(&self, mut all_acked: AllAcked) {
        if (&mut all_acked).now_or_never().is_none() {
            // Completed streams are removed here, since nothing else does before the connection is
            // closed.
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain_mut(|all_acked| all_acked.now_or_never().is_none());
            waiting.push(all_acked);
        }
    }

    /// Ready when the peer has acknowledged all streams, or the connection is lost.
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

    /// Does not wait: quinn's task sends what is buffered.
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
            // Not finished, so it must not look complete. `RecvStream` sends STOP_SENDING when it is
            // dropped.
            SendState::Ready => {
                // Fails only if the stream has ended already.
                let _ = self.send.reset(0_u8.into());
            }
            // An orderly close of the connection waits for it.
            SendState::DataSent(all_acked) => self.unacked.push(all_acked),
            SendState::Terminal => {}
        }
    }
}

fn out_of_memory() -> io::Error {
    let cause = "the stream was reset to free memory";
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
