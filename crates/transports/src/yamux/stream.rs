//! The handle of a stream, and the session that it shares with the connection.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};
use stream_io::chunk_passing;

use super::session::Session;

/// The session of a connection, shared with the handles of its streams, which other tasks own.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Session>);

impl Shared {
    pub(super) fn new(session: Session) -> Self {
        Self(Mutex::new(session))
    }

    /// Access by a stream's task: also wakes the connection's task if something was queued.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Session) -> R) -> R {
        self.access(|session| {
            let result = f(session);
            let driver = session.send_queue.take_driver();
            session.wakers.extend(driver);
            result
        })
    }

    /// Access by the connection's task, which polls the queue itself.
    ///
    /// Tasks are woken after the lock is released: a waker may run arbitrary code, which may call this
    /// function again.
    pub(super) fn access<R>(&self, f: impl FnOnce(&mut Session) -> R) -> R {
        let (result, wakers) = {
            // After a panic in a critical section the session may be inconsistent, but it contains no
            // unsafe state. Propagating the panic to the tasks of all its streams would be worse.
            let mut session = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let result = f(&mut session);
            session.update_charge();
            (result, std::mem::take(&mut session.wakers))
        };
        for waker in wakers {
            waker.wake();
        }
        result
    }
}

/// A stream of a yamux connection.
///
/// [The module](super) describes how it ends, and what is sent when it is dropped. One task may read
/// while another one writes.
pub struct Substream {
    id: u32,
    shared: Arc<Shared>,
}

impl Substream {
    pub(super) fn new(id: u32, shared: Arc<Shared>) -> Self {
        Self { id, shared }
    }
}

impl fmt::Debug for Substream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Substream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for Substream {
    fn drop(&mut self) {
        // The state is returned so that its buffers and wakers are dropped after the lock is released.
        drop(self.shared.with(|session| session.release(self.id)));
    }
}

impl AsyncRead for Substream {
    /// A read with an empty buffer is ready only once the stream has failed, with the error, even if
    /// data is left to be read. [`BrokenPipe`](io::ErrorKind::BrokenPipe) means that the connection
    /// has ended after the remote finished the stream: the data that is left is complete.
    ///
    /// If a chunk is [requested](chunk_passing), a read with an empty buffer provides one, or is
    /// pending without registering a waker.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty()
            && let Some(max) = chunk_passing::requested_len()
        {
            let chunk = self.shared.with(|session| session.read_chunk(self.id, max));
            let Some(chunk) = chunk else {
                return Poll::Pending;
            };
            chunk_passing::provide_chunk(chunk);
            return Poll::Ready(Ok(0));
        }
        if buf.is_empty() {
            let failure = self
                .shared
                .access(|session| session.failure(self.id, cx.waker()));
            return failure.map(Err);
        }
        self.shared
            .with(|session| session.read(self.id, buf, cx.waker()))
    }
}

impl AsyncWrite for Substream {
    /// Writes at most one frame, and no more than the remote's window and the send queue allow.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let chunk = chunk_passing::accept_chunk(buf);
        self.shared
            .with(|session| session.write(self.id, buf, chunk.as_ref(), cx.waker()))
    }

    /// Does not wait: the connection's task sends what is queued as soon as the socket is writable,
    /// and frames that are written in a row share a system call. Only [`Self::poll_close`] waits.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.access(|session| session.flush(self.id)))
    }

    /// Sends FIN, the first time, and waits until it and everything before it was written to the
    /// socket.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared
            .with(|session| session.close(self.id, cx.waker()))
    }
}
