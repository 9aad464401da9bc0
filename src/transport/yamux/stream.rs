//! The handle of a stream.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};

use super::session::Session;
use crate::chunk_passing;

/// A session that a connection shares with its streams, which live in other tasks.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Session>);

impl Shared {
    pub(super) fn new(session: Session) -> Self {
        Self(Mutex::new(session))
    }

    /// For a stream: also wakes the connection's task if there is something new to send.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Session) -> R) -> R {
        self.access(|session| {
            let result = f(session);
            let driver = session.send_queue.take_driver();
            session.wakers.extend(driver);
            result
        })
    }

    /// For the connection's task, which needs not wake itself.
    ///
    /// Others are wakers when the lock is released: a waker runs code of somebody else, which may
    /// come back here.
    pub(super) fn access<R>(&self, f: impl FnOnce(&mut Session) -> R) -> R {
        let (result, wakers) = {
            // A panic elsewhere in this process leaves a session that is at worst incomplete;
            // passing the panic on to all its streams helps nobody.
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
/// How it ends, and what dropping it tells the remote, is described in the documentation of
/// [the module](super). Reading and writing may happen in two different tasks.
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
        // The state is returned so that buffers and wakers are freed outside of the lock.
        drop(self.shared.with(|session| session.release(self.id)));
    }
}

impl AsyncRead for Substream {
    /// A read of length zero reads nothing, and is ready only when the stream has failed: with the
    /// failure, even if data is left to be read. [`BrokenPipe`](io::ErrorKind::BrokenPipe) means
    /// that the connection has ended after the remote finished the stream: what is left is complete.
    /// While a chunk is [wanted](chunk_passing), it hands one over, or leaves it at that.
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
    /// Takes at most one frame, and no more than the remote's window and the queue allow.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let chunk = chunk_passing::accept_chunk(buf);
        self.shared
            .with(|session| session.write(self.id, buf, chunk.as_ref(), cx.waker()))
    }

    /// Waits for nothing: the connection sends what is queued as soon as the socket takes it, and
    /// frames that are written in a row share a call. Only [`Self::poll_close`] waits for that.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.access(|session| session.flush(self.id)))
    }

    /// Sends FIN, the first time, and waits until the socket took it and all that is before it.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared
            .with(|session| session.close(self.id, cx.waker()))
    }
}
