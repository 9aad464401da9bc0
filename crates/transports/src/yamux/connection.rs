//! The connection: the task that moves bytes between the session and the socket.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use resource_manager::{BufferCharge, ConnectionMemory, Relief};
use stream_io::thread_buffer;
use tokio::time::Sleep;

use super::{
    Config, Error, Substream,
    chunks::Chunk,
    frame::GoAway,
    keepalive::KeepaliveTimer,
    session::{Role, Session},
    stream::Shared,
};
use crate::buffered;

/// The maximum number of rounds of writing and reading in one poll, before the task yields.
const MAX_ROUNDS: usize = 4;

/// The maximum duration of an orderly close: until the remote has read what is queued, and has closed
/// its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of bytes that are written before the socket is read, plus one write.
const MAX_WRITE: usize = 256 * 1024;

/// A yamux connection over the socket `C`.
///
/// Dropping it aborts all its streams, as the loss of the socket does.
pub struct Muxer<C> {
    socket: C,
    shared: Arc<Shared>,
    /// The memory account of the connection.
    memory: ConnectionMemory,
    /// The charge for buffers of the layers below.
    lower_layers: BufferCharge,
    /// The chunk that is being written to the socket, and the number of its bytes that were written.
    chunk: Chunk,
    chunk_written: usize,
    /// Whether the socket was written to since the last flush.
    unflushed: bool,
    keepalive: KeepaliveTimer,
    state: State,
    /// The deadline of an orderly close.
    close_timeout: Option<Pin<Box<Sleep>>>,
}

/// The state of a connection. It only moves forward: `Open` → `Closing` → `Lingering` → `Closed`, and
/// from any state to `Closed` after an error, a timeout, or when memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Closed here: GOAWAY is queued, and the queue is being written.
    Closing,
    /// Everything is written, and the write side of the socket is closed. What arrives is read and
    /// discarded: closing a TCP socket with unread data sends RST, upon which the remote's kernel may
    /// discard data that it has received and its application has not read.
    Lingering,
    Closed,
}

impl<C> Muxer<C> {
    pub(super) fn new(socket: C, config: Config, role: Role) -> Self {
        let session = Session::new(config, role);
        let memory = session.memory.clone();
        Self {
            socket,
            shared: Arc::new(Shared::new(session)),
            lower_layers: BufferCharge::new(memory.clone()),
            memory,
            chunk: Chunk::default(),
            chunk_written: 0,
            unflushed: false,
            keepalive: KeepaliveTimer::default(),
            state: State::Open,
            close_timeout: None,
        }
    }

    /// The account to which the connection's buffers are charged.
    pub fn memory(&self) -> &ConnectionMemory {
        &self.memory
    }

    /// Carries out relief that was requested because memory runs out.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the connection has to end. This includes a request to reset streams
    /// if no stream holds anything: the bytes are in the send queue or an incomplete frame then, and
    /// only the end of the connection frees them.
    fn relieve(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        match self.memory.poll_relief(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Relief::ResetStreams) if self.shared.access(Session::relieve_memory) => {
                Ok(())
            }
            Poll::Ready(Relief::ResetStreams | Relief::Close) => Err(Error::OutOfMemory),
        }
    }
}

impl<C> fmt::Debug for Muxer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Muxer")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<C> Drop for Muxer<C> {
    fn drop(&mut self) {
        self.shared.access(Session::abort);
    }
}

impl<C> Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    /// Writes what is queued and reads what arrives, until neither makes progress.
    ///
    /// When this returns, the task is woken by the socket, the keepalive timer, a request for relief,
    /// or a stream that queues something: the driver is set before the queue is polled, so a frame
    /// that is queued meanwhile wakes the task.
    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.relieve(cx)?;
        self.shared
            .access(|session| session.send_queue.set_driver(cx.waker()));
        while self.keepalive.poll_tick(cx).is_ready() {
            self.shared.access(Session::check_keepalive)?;
        }
        for _ in 0..MAX_ROUNDS {
            let more_to_write = matches!(self.poll_write(cx)?, Poll::Ready(true));
            let more_to_read = self.poll_read(cx)?.is_ready();
            if !more_to_write && !more_to_read {
                // Lower layers may gather short writes; they are flushed once the queue is empty.
                // A flush that is pending is tried again with the wake that it has registered.
                if self.chunk.is_empty() {
                    let _ = self.poll_flush(cx)?;
                }
                return Ok(());
            }
        }
        // Both sides may still be ready, so nothing has registered a waker.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes until the queue is empty (ready with `false`), the socket is blocked (pending), or
    /// [`MAX_WRITE`] bytes were written (ready with `true`).
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        let mut total = 0;
        while total < MAX_WRITE {
            if self.chunk.is_empty() {
                match self.shared.access(|session| session.send_queue.pop_chunk()) {
                    Some(chunk) => self.chunk = chunk,
                    None => return Poll::Ready(Ok(false)),
                }
            }
            let rest = self.chunk.get(self.chunk_written..).unwrap_or_default();
            let n = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            total += n;
            self.unflushed = true;
            self.chunk_written += n;
            if self.chunk_written >= self.chunk.len() {
                self.chunk = Chunk::default();
                self.chunk_written = 0;
            }
            self.shared.access(|session| session.on_written(n));
        }
        Poll::Ready(Ok(true))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once from the socket, and passes what arrived to the session.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        thread_buffer::with(thread_buffer::STEP_BYTES, |buffer| {
            let n = ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
            if n == 0 {
                return Poll::Ready(Err(Error::RemoteClosed));
            }
            let bytes = buffer.get(..n).unwrap_or_default();
            self.shared.access(|session| session.receive(bytes))?;
            Poll::Ready(Ok(()))
        })
    }

    /// Reads and discards until the remote has closed its side, in order or by a reset.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..MAX_ROUNDS {
            let read = thread_buffer::with(thread_buffer::STEP_BYTES, |buffer| {
                Pin::new(&mut self.socket).poll_read(cx, buffer)
            });
            if !matches!(ready!(read), Ok(1..)) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The orderly close. Each step is entered once, and its completion is recorded in the state, so
    /// the close continues where it was when the task is polled again.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.state == State::Open {
            self.state = State::Closing;
            self.shared
                .access(|session| session.end(Some(GoAway::Normal)));
        }
        let timeout = self
            .close_timeout
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        if timeout.as_mut().poll(cx).is_ready() || self.memory.poll_relief(cx).is_ready() {
            self.state = State::Closed;
        }
        if self.state == State::Closing {
            while ready!(self.poll_write(cx))? {}
            ready!(Pin::new(&mut self.socket).poll_close(cx))?;
            self.state = State::Lingering;
        }
        if self.state == State::Lingering {
            ready!(self.poll_discard(cx));
            self.state = State::Closed;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the connection after an error, and returns the error.
    fn fail(&mut self, error: Error, cx: &mut Context<'_>) -> Error {
        self.state = State::Closed;
        let reason = matches!(error, Error::Protocol(_)).then_some(GoAway::ProtocolError);
        self.shared.access(|session| session.end(reason));
        if reason.is_some() {
            // Best effort: GOAWAY is sent if the socket is writable right now. The connection is not
            // polled again after an error.
            let _ = self.poll_write(cx);
            let _ = Pin::new(&mut self.socket).poll_flush(cx);
        }
        error
    }
}

impl<C> StreamMuxer for Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Substream = Substream;
    type Error = Error;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let id = ready!(self.shared.with(|session| session.accept(cx.waker())))?;
        Poll::Ready(Ok(Substream::new(id, Arc::clone(&self.shared))))
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let id = ready!(self.shared.with(|session| session.open(cx.waker())))?;
        Poll::Ready(Ok(Substream::new(id, Arc::clone(&self.shared))))
    }

    /// Sends what is queued and GOAWAY, closes the write side of the socket, and waits for the remote
    /// to do the same, for at most 10 s in total. Streams end at once.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        let (closed, change) = buffered::collect_changes(|| this.poll_shutdown(cx));
        this.lower_layers.change(change);
        closed
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        let this = self.get_mut();
        if this.state != State::Open {
            return Poll::Ready(Err(Error::Closed));
        }
        let (driven, change) = buffered::collect_changes(|| this.drive(cx));
        this.lower_layers.change(change);
        match driven {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(this.fail(error, cx))),
        }
    }
}

#[cfg(test)]
impl<C> Muxer<C> {
    /// Whether a chunk is allocated.
    pub(super) fn is_holding_buffers(&self) -> bool {
        !self.chunk.is_empty()
    }
}
