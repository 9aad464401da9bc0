//! One bidirectional stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use quinn::{ReadError, RecvStream, SendStream, WriteError};

/// One bidirectional stream of a QUIC connection.
///
/// It keeps apart what is complete from what was cut (RFC 9000, section 3):
///
/// - The end of the data is read (`Ok(0)`) only if the peer finished its side. A reset by the peer
///   is [`ConnectionReset`](io::ErrorKind::ConnectionReset), the loss of the connection
///   [`ConnectionAborted`](io::ErrorKind::ConnectionAborted).
/// - `close` finishes our side; the data before it is delivered even if the stream is dropped right
///   then, for as long as the connection lives. It does not wait for the delivery.
/// - A stream that is dropped without `close` is reset, and what was not sent is not sent any more.
///   A peer that still sends is asked to stop.
/// - Writing to a peer that asked us to stop is [`BrokenPipe`](io::ErrorKind::BrokenPipe).
pub struct Stream {
    send: SendStream,
    recv: RecvStream,
    finished: bool,
    /// quinn tells a reset once, and from then on reports the end of the data.
    reset: bool,
}

impl Stream {
    pub(super) fn new(send: SendStream, recv: RecvStream) -> Self {
        Self {
            send,
            recv,
            finished: false,
            reset: false,
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
        let result = ready!(self.recv.poll_read(cx, buf));
        self.reset = matches!(result, Err(ReadError::Reset(_)));
        Poll::Ready(result.map_err(read_error))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send)
            .poll_write(cx, buf)
            .map_err(write_error)
    }

    /// quinn sends on its own: there is nothing to push.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.send.finish().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            // It fails only if the stream has ended already.
            let _ = self.send.reset(0_u8.into());
        }
    }
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
