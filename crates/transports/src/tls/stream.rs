//! An encrypted byte stream over another byte stream, on the accepting side.
//!
//! rustls has the keys and implements the protocol; the buffers are managed here. Bytes are read from
//! the socket in large chunks, encrypted directly into a batch, and written in one call. An idle stream
//! holds no buffers.
//!
//! # Buffers
//!
//! Data of a stream is in one of three buffers, each in order:
//!
//! - `ciphertext`: received bytes that rustls has not discarded, at most [`MAX_CIPHERTEXT_BYTES`].
//! - `plaintext`: decrypted bytes for which the reader had no space. The socket is not read before it is
//!   empty, which is the back-pressure to the peer.
//! - `pending`: encrypted bytes that are not written, including handshake messages and alerts. A write
//!   is pending while it is long, before anything is encrypted. Records are numbered implicitly, so
//!   what is encrypted must be sent in order, and a write counts as done once it is encrypted.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use futures::{AsyncRead, AsyncWrite, future::poll_fn};
use rustls::{CommonState, ServerConfig, server::UnbufferedServerConnection};
use stream_io::thread_buffer;

use super::records::{PlaintextSink, Records};
use crate::buffered::ReportedBytes;

/// The maximum length of incomplete handshake messages and records in bytes: more than the certificates
/// of any peer and a record of maximum length.
const MAX_CIPHERTEXT_BYTES: usize = 32 * 1024;

/// Records with a smaller total length wait for more or for a flush, so that they share a system call.
const GATHERED_BYTES: usize = 4096;

/// The maximum number of bytes per write. A muxer writes 64 KiB and a header at a time.
const MAX_WRITE_BYTES: usize = 65 * 1024;

/// An encrypted byte stream over the socket `C`.
///
/// Short writes are gathered until the stream is flushed. End-of-file is only read after `close_notify`
/// of the peer; an end of the socket without it is [`io::ErrorKind::UnexpectedEof`].
pub struct TlsServerStream<C> {
    socket: C,
    records: Box<Records>,
    /// Decrypted data for which the reader had no space: at most what one read of the socket returned.
    plaintext: BytesMut,
    /// Encrypted data: a part of a record, or of a handshake message.
    ciphertext: Vec<u8>,
    /// Encrypted data that is not written.
    pending: BytesMut,
    /// The allocated bytes of `plaintext` and `pending`, including parts that were read or written.
    allocated: [usize; 2],
    reported: ReportedBytes,
    is_closing: bool,
    /// Whether a record was not valid. Final: nothing is decrypted any more.
    has_failed: bool,
    /// The cause, for the first read that fails. Later reads return a general error.
    failure: Option<io::Error>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> TlsServerStream<C> {
    /// Performs the handshake as the server.
    ///
    /// # Errors
    /// When the socket fails or ends, or the peer violates the protocol or is rejected by `tls`.
    pub(super) async fn accept(tls: Arc<ServerConfig>, socket: C) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(tls).map_err(io::Error::other)?;
        let mut stream = Self {
            socket,
            records: Box::new(Records::new(connection)),
            plaintext: BytesMut::new(),
            ciphertext: Vec::new(),
            pending: BytesMut::new(),
            allocated: [0; 2],
            reported: ReportedBytes::default(),
            is_closing: false,
            has_failed: false,
            failure: None,
        };
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.records.state().is_handshaking() {
            // The peer waits for our messages before it sends more. In the first iteration there are
            // none. Those of the last one go with the first write or flush.
            ready!(self.poll_send(cx))?;
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            if ready!(self.poll_fill(cx, &mut []))?.is_none() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.check()?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<C> TlsServerStream<C> {
    /// The memory of the buffers in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.ciphertext.capacity() + self.allocated.iter().sum::<usize>()
    }

    /// Reports the memory of the buffers to the muxer above.
    fn report(&mut self) {
        // `capacity` decreases as a `BytesMut` is read, although its allocation stays.
        for (allocated, buffer) in self
            .allocated
            .iter_mut()
            .zip([&self.plaintext, &self.pending])
        {
            *allocated = match buffer.capacity() {
                0 => 0,
                capacity => capacity.max(*allocated),
            };
        }
        self.reported.update(self.held_bytes());
    }

    /// The negotiated parameters.
    pub(super) fn state(&self) -> &CommonState {
        self.records.state()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> TlsServerStream<C> {
    /// Reads once from the socket, and decrypts the records that this completes into `buffer`. Returns
    /// the number of decrypted bytes, which may be 0, or `None` at the end of the stream.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        thread_buffer::with(thread_buffer::STEP_BYTES, |records| {
            // There is always space: `ciphertext` has at most half of the length of `records`.
            let (before, space) = records.split_at_mut(self.ciphertext.len());
            let read = ready!(Pin::new(&mut self.socket).poll_read(cx, space))?;
            if read == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            before.copy_from_slice(&self.ciphertext);
            let filled = before.len() + read;
            let records = records.get_mut(..filled).unwrap_or_default();
            let mut sink = PlaintextSink::new(buffer, &mut self.plaintext);
            let decrypted = self.records.decrypt(records, &mut sink, &mut self.pending);
            let produced = sink.written();
            if !self.pending.is_empty() {
                // A handshake message, or the alert. If the socket is blocked, it goes with the next
                // write.
                let _ = self.poll_send(cx)?;
            }
            let rest = decrypted.and_then(|used| match records.get(used..) {
                Some(rest) if rest.len() <= MAX_CIPHERTEXT_BYTES => Ok(rest),
                _ => Err(invalid("a message is too long")),
            });
            self.ciphertext.clear();
            match rest {
                Ok(rest) => self.ciphertext.extend_from_slice(rest),
                // Not returned yet: the data before the invalid record is read first.
                Err(error) => {
                    self.has_failed = true;
                    self.failure = Some(error);
                }
            }
            let is_over = produced == 0 && self.plaintext.is_empty() && self.records.is_closed();
            Poll::Ready(Ok((!is_over).then_some(produced)))
        })
    }
}

impl<C> TlsServerStream<C> {
    /// Fails if a record was not valid.
    fn check(&mut self) -> io::Result<()> {
        if !self.has_failed {
            return Ok(());
        }
        let why = self.failure.take();
        Err(why.unwrap_or_else(|| invalid("a record was not valid")))
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<C: AsyncWrite + Unpin> TlsServerStream<C> {
    /// Writes all pending bytes, and releases their memory.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        self.pending = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn retain(&mut self, ciphertext: Option<&[u8]>) {
        self.pending
            .extend_from_slice(ciphertext.unwrap_or_default());
    }

    /// Encrypts `bytes`, and writes them unless they are short. What the socket does not accept is kept
    /// in `pending`.
    fn encrypt(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        thread_buffer::with(thread_buffer::MAX_BYTES, |buffer| {
            // The space before it is for the pending bytes, which are sent first.
            let (_, ciphertext) = buffer.split_at_mut(GATHERED_BYTES);
            let mut sink = PlaintextSink::new(&mut [], &mut self.plaintext);
            let length = self.records.encrypt(
                &mut self.ciphertext,
                &mut sink,
                &mut self.pending,
                bytes,
                ciphertext,
            )?;
            if self.pending.len() + length < GATHERED_BYTES {
                self.retain(ciphertext.get(..length));
                return Ok(());
            }
            let end = GATHERED_BYTES + length;
            let Some(start) = GATHERED_BYTES.checked_sub(self.pending.len()) else {
                // A handshake message made `pending` longer than that space.
                self.retain(ciphertext.get(..length));
                let _ = self.poll_send(cx)?;
                return Ok(());
            };
            if let Some(before) = buffer.get_mut(start..GATHERED_BYTES) {
                before.copy_from_slice(&self.pending);
            }
            self.pending.clear();
            let mut written = 0;
            let all = buffer.get(start..end).unwrap_or_default();
            if let Poll::Ready(taken) = Pin::new(&mut self.socket).poll_write(cx, all)? {
                written = taken;
            }
            self.retain(all.get(written..));
            let _ = self.poll_send(cx)?;
            Ok(())
        })
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> TlsServerStream<C> {
    fn poll_decrypt(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if !self.plaintext.is_empty() {
                let produced = self.plaintext.len().min(buffer.len());
                let (space, _) = buffer.split_at_mut(produced);
                self.plaintext.copy_to_slice(space);
                return Poll::Ready(Ok(produced));
            }
            self.check()?;
            if self.records.is_closed() {
                return Poll::Ready(Ok(0));
            }
            match self.poll_fill(cx, buffer) {
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(Some(0))) => {}
                Poll::Ready(Ok(Some(produced))) => return Poll::Ready(Ok(produced)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.plaintext = BytesMut::new();
                    self.ciphertext.shrink_to_fit();
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_encrypt(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.pending.len() >= GATHERED_BYTES {
            ready!(self.poll_send(cx))?;
        }
        let taken = bytes.len().min(MAX_WRITE_BYTES);
        let (bytes, _) = bytes.split_at(taken);
        self.encrypt(cx, bytes)?;
        Poll::Ready(Ok(taken))
    }
}

impl<C> fmt::Debug for TlsServerStream<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServerStream").finish_non_exhaustive()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsServerStream<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = self.poll_decrypt(cx, buffer);
        self.report();
        read
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsServerStream<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = self.poll_encrypt(cx, bytes);
        self.report();
        taken
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let sent = this.poll_send(cx);
        this.report();
        ready!(sent)?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    /// Sends `close_notify`, and closes the write side of the socket.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Only once, however often the close is polled.
        if !std::mem::replace(&mut this.is_closing, true) {
            let mut sink = PlaintextSink::new(&mut [], &mut this.plaintext);
            this.records
                .close(&mut this.ciphertext, &mut sink, &mut this.pending)?;
        }
        let sent = this.poll_send(cx);
        this.report();
        ready!(sent)?;
        Pin::new(&mut this.socket).poll_close(cx)
    }
}

#[cfg(test)]
impl<C> TlsServerStream<C> {
    pub(super) fn socket_mut(&mut self) -> &mut C {
        &mut self.socket
    }
}
