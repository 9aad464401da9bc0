//! One bidirectional stream.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use futures::{AsyncRead, AsyncWrite};
use quinn::{ReadError, RecvStream, SendStream, StoppedError, WriteError};

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
pub struct Stream {
    send: SendStream,
    recv: RecvStream,
    sending: Sending,
    /// quinn tells a reset once, and from then on reports the end of the data.
    reset: bool,
    undelivered: Undelivered,
}

impl Stream {
    pub(super) fn new(send: SendStream, recv: RecvStream, undelivered: Undelivered) -> Self {
        Self {
            send,
            recv,
            sending: Sending::Open,
            reset: false,
            undelivered,
        }
    }
}

/// How far our side is.
enum Sending {
    Open,
    /// It is finished, and the peer does not have all of it yet.
    Finished(Delivery),
    /// The peer has everything, or does not want it.
    Delivered,
}

type Delivery = BoxFuture<'static, Result<(), StoppedError>>;

/// The streams of a connection that are finished and gone here, and that the peer has not
/// acknowledged to their end yet. There are no more of them than a peer allows streams at once.
#[derive(Clone, Default)]
pub(super) struct Undelivered(Arc<Mutex<Vec<Delivery>>>);

impl Undelivered {
    /// How many streams of the connection there are: each has a clone.
    pub(super) fn streams(&self) -> usize {
        Arc::strong_count(&self.0).saturating_sub(1)
    }

    fn push(&self, mut delivery: Delivery) {
        if (&mut delivery).now_or_never().is_none() {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain_mut(|delivery| delivery.now_or_never().is_none());
            waiting.push(delivery);
        }
    }

    /// Ready when the peer has everything, or the connection is lost.
    pub(super) fn poll_delivered(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain_mut(|delivery| delivery.poll_unpin(cx).is_pending());
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

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Sending::Open = self.sending {
            self.send.finish().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.sending = Sending::Finished(self.send.stopped().map_ok(|_| ()).boxed());
        }
        if let Sending::Finished(delivery) = &mut self.sending {
            let delivered = ready!(delivery.poll_unpin(cx));
            self.sending = Sending::Delivered;
            delivered.map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.sending, Sending::Delivered) {
            Sending::Open => {
                // It fails only if the stream has ended already.
                let _ = self.send.reset(0_u8.into());
            }
            Sending::Finished(delivery) => self.undelivered.push(delivery),
            Sending::Delivered => {}
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
