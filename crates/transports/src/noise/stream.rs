//! An encrypted byte stream over another byte stream.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use snow::TransportState;

use super::{decryption::Decryptor, encryption::Encryptor};
use crate::buffered::ReportedBytes;

/// An encrypted byte stream over the socket `C`, with an authenticated peer.
///
/// Short writes are gathered until the stream is flushed. The stream ends where the socket ends. Noise
/// has no authenticated end of a stream, so layers above have to detect truncation between frames.
pub struct NoiseStream<C> {
    socket: C,
    state: TransportState,
    decryptor: Decryptor,
    encryptor: Encryptor,
    reported: ReportedBytes,
}

impl<C> NoiseStream<C> {
    pub(super) fn new(socket: C, state: TransportState) -> Self {
        Self {
            socket,
            state,
            decryptor: Decryptor::default(),
            encryptor: Encryptor::default(),
            reported: ReportedBytes::default(),
        }
    }

    /// The memory of the buffers in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.decryptor.held_bytes() + self.encryptor.held_bytes()
    }

    /// Reports the memory of the buffers to the muxer above.
    fn report(&mut self) {
        self.reported.update(self.held_bytes());
    }
}

impl<C> fmt::Debug for NoiseStream<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoiseStream").finish_non_exhaustive()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for NoiseStream<C> {
    /// Fails with [`io::ErrorKind::UnexpectedEof`] if the socket ends within a frame. Fails with
    /// [`io::ErrorKind::InvalidData`] if a frame cannot be authenticated, once everything before it was
    /// read; all later reads fail as well.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let read = this
            .decryptor
            .poll_read(cx, &mut this.socket, &mut this.state, buffer);
        this.report();
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for NoiseStream<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = this
            .encryptor
            .poll_write(cx, &mut this.socket, &mut this.state, bytes);
        this.report();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let sent = this.encryptor.poll_send(cx, &mut this.socket);
        this.report();
        ready!(sent)?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let sent = this.encryptor.poll_send(cx, &mut this.socket);
        this.report();
        ready!(sent)?;
        Pin::new(&mut this.socket).poll_close(cx)
    }
}

#[cfg(test)]
impl<C> NoiseStream<C> {
    pub(super) fn socket_mut(&mut self) -> &mut C {
        &mut self.socket
    }

    /// Encrypts the next frame.
    pub(super) fn frame(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut message = vec![0; plain.len() + 16];
        self.state.write_message(plain, &mut message).unwrap();
        let length = u16::try_from(message.len()).unwrap();
        [&length.to_be_bytes(), message.as_slice()].concat()
    }
}
