//! The sending direction: writes are encrypted to frames and written to the socket.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::AsyncWrite;
use snow::TransportState;
use stream_io::thread_buffer;

use super::{LENGTH_BYTES, MAX_FRAME_BYTES, MAX_PLAINTEXT_BYTES, TAG_BYTES};
use crate::buffered::Buffer;

/// Frames with a smaller total length wait for more or for a flush, so that they share a system call.
const GATHERED_BYTES: usize = 4096;

/// The maximum number of frames per write. A muxer writes 64 KiB and a header at a time, slightly more
/// than fits into one.
const FRAMES: usize = 2;

/// The maximum number of encrypted bytes that are not written.
pub(super) const MAX_BATCH_BYTES: usize = GATHERED_BYTES + FRAMES * MAX_FRAME_BYTES;
const _: () = assert!(MAX_BATCH_BYTES <= thread_buffer::MAX_BYTES);

/// The encrypted data that is not written.
#[derive(Default)]
pub(super) struct Encryptor {
    pending: Buffer,
}

impl Encryptor {
    /// Encrypts a prefix of `bytes`, and writes it unless it is short. What the socket does not accept
    /// is kept in `pending`. Ready with the length of the prefix.
    ///
    /// The nonces of the frames are used up once they are encrypted, so they must be sent: the write
    /// counts as done even if the socket is blocked. It is pending only while frames of earlier writes
    /// are, before anything is encrypted.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncWrite + Unpin),
        state: &mut TransportState,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.pending.len() >= GATHERED_BYTES {
            ready!(self.poll_send(cx, socket))?;
        }
        Poll::Ready(thread_buffer::with(MAX_BATCH_BYTES, |buffer| {
            let before = self.pending.len();
            let mut batch = WriteBatch { buffer, length: 0 };
            batch.push(&self.pending)?;
            let mut taken = 0;
            for plaintext in bytes.chunks(MAX_PLAINTEXT_BYTES).take(FRAMES) {
                batch.encrypt(state, plaintext)?;
                taken += plaintext.len();
            }
            let all = batch.bytes();
            if all.len() < GATHERED_BYTES {
                // `pending` already has the first `before` bytes.
                self.retain(all, before);
            } else {
                let written = match Pin::new(socket).poll_write(cx, all)? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(written) => written,
                    Poll::Pending => 0,
                };
                self.pending.clear();
                self.retain(all, written);
            }
            Ok(taken)
        }))
    }

    /// Appends `bytes` to `pending`, except for the first `skipped`.
    fn retain(&mut self, bytes: &[u8], skipped: usize) {
        let rest = bytes.get(skipped..).unwrap_or_default();
        self.pending.append(rest, GATHERED_BYTES);
    }

    /// Writes all pending bytes, and releases their memory.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        self.pending.release();
        Poll::Ready(Ok(()))
    }

    /// The memory of the buffer in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.pending.held_bytes()
    }
}

/// A sequence of frames that is written in one call.
struct WriteBatch<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl WriteBatch<'_> {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    fn space(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.length..).unwrap_or_default()
    }

    fn push(&mut self, frames: &[u8]) -> io::Result<()> {
        let space = self.space().get_mut(..frames.len()).ok_or_else(no_room)?;
        space.copy_from_slice(frames);
        self.length += frames.len();
        Ok(())
    }

    fn encrypt(&mut self, state: &mut TransportState, plaintext: &[u8]) -> io::Result<()> {
        let space = self.space();
        let (length, message) = space
            .split_at_mut_checked(LENGTH_BYTES)
            .ok_or_else(no_room)?;
        let written = state
            .write_message(plaintext, message)
            .map_err(io::Error::other)?;
        if written != plaintext.len() + TAG_BYTES {
            return Err(io::Error::other("cannot encrypt"));
        }
        let short = u16::try_from(written).map_err(io::Error::other)?;
        length.copy_from_slice(&short.to_be_bytes());
        self.length += LENGTH_BYTES + written;
        Ok(())
    }
}

fn no_room() -> io::Error {
    io::Error::other("a write batch is too long")
}
