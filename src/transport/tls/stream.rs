//! An encrypted byte stream over another byte stream, as the accepting side has it.
//!
//! `rustls` keeps the keys and speaks the protocol; where bytes lie is decided here. They are read
//! from the socket in large pieces, encrypted straight behind others, and written together. A
//! channel that has nothing to do holds no buffers.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use futures::{AsyncRead, AsyncWrite, future::poll_fn};
use rustls::{CommonState, ServerConfig, server::UnbufferedServerConnection};

use super::records::{PlaintextSink, Records};
use crate::{thread_buffer, transport::buffered::ReportedBytes};

/// How much of a message may wait for the rest of it: more than the certificates of any peer take,
/// and a whole record.
const MAX_CIPHERTEXT_BYTES: usize = 32 * 1024;

/// What is shorter waits for more or for a flush, so that it can share a call of the system.
const GATHERED_BYTES: usize = 4096;

/// How much of one write is taken. A muxer writes 64 KiB and a header at a time.
const MAX_WRITE_BYTES: usize = 65 * 1024;

/// An encrypted byte stream over the socket `C`.
///
/// Writes may be gathered until the stream is flushed. Its data is complete only if the other side
/// has said so; an end without that is [`io::ErrorKind::UnexpectedEof`].
pub struct TlsServerStream<C> {
    socket: C,
    records: Box<Records>,
    /// What was decrypted and found no room with its reader: what one call of the system brought.
    plaintext: BytesMut,
    /// What is still encrypted: a part of a record, or of a message of the handshake.
    ciphertext: Vec<u8>,
    /// What is encrypted and not written yet.
    pending: BytesMut,
    /// What `opened` and `waiting` have allocated, parts that were read or written included.
    allocated: [usize; 2],
    reported: ReportedBytes,
    is_closing: bool,
    /// What arrived is not what the other side has sent. Told once, and then in general.
    has_failed: bool,
    failure: Option<io::Error>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> TlsServerStream<C> {
    /// Accepts whoever is at the other end of `socket`.
    ///
    /// # Errors
    /// When the socket fails or ends, or the other side does not do as `tls` wants it.
    pub(super) async fn accept(tls: Arc<ServerConfig>, socket: C) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(tls).map_err(io::Error::other)?;
        let mut channel = Self {
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
        poll_fn(|cx| channel.poll_handshake(cx)).await?;
        Ok(channel)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.records.state().is_handshaking() {
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
    /// How much memory for bytes is allocated.
    pub(super) fn held_bytes(&self) -> usize {
        self.ciphertext.capacity() + self.allocated.iter().sum::<usize>()
    }

    /// Reports what is held after a call, to the muxer above.
    fn report(&mut self) {
        // The start of such a buffer moves on as it is read, and with it what it says of its room.
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

    /// What was agreed on.
    pub(super) fn state(&self) -> &CommonState {
        self.records.state()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> TlsServerStream<C> {
    /// Reads once from the socket, and gives what that completes, which may be nothing; `None` if
    /// there will be no more.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        thread_buffer::with(thread_buffer::STEP_BYTES, |records| {
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
                // The answer of the protocol, or why there is none. What the socket does not take
                // now goes with the next write.
                let _ = self.poll_send(cx)?;
            }
            let rest = decrypted.and_then(|used| match records.get(used..) {
                Some(rest) if rest.len() <= MAX_CIPHERTEXT_BYTES => Ok(rest),
                _ => Err(invalid("a message is too long")),
            });
            self.ciphertext.clear();
            match rest {
                Ok(rest) => self.ciphertext.extend_from_slice(rest),
                // What came before is read first.
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
    /// Whether what arrives is still what the other side has sent.
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
    /// Writes everything that waits, and gives its memory back.
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

    /// Encrypts `bytes`, and writes them unless that is little. What the socket does not take waits.
    fn encrypt(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        thread_buffer::with(thread_buffer::MAX_BYTES, |buffer| {
            // What waits goes before it: there is room for that.
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
                // An answer of the protocol was that long.
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

    /// Tells the other side that the data is complete, and closes the socket's writing half.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
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
