//! The receiving direction: frames from the socket are decrypted for the reader.
//!
//! Invariants:
//!
//! - Bytes are read in order. `plaintext` precedes `ciphertext`, so no frame is decrypted while
//!   `plaintext` holds the rest of an earlier one.
//! - After a frame that cannot be authenticated, nothing is decrypted any more. Everything before it is
//!   still read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::AsyncRead;
use snow::TransportState;
use stream_io::thread_buffer;

use super::{LENGTH_BYTES, MAX_FRAME_BYTES, TAG_BYTES, message};
use crate::buffered::Buffer;

/// The data that has arrived and is not read.
#[derive(Default)]
pub(super) struct Decryptor {
    /// Decrypted data for which the reader had no space: the rest of one frame.
    plaintext: Buffer,
    /// Encrypted data, at most the maximum length of a frame: complete frames for which the reader had
    /// no space, or a part of an incomplete frame. Its capacity is at most a quarter more.
    ciphertext: Buffer,
    /// Whether a frame could not be authenticated.
    has_failed: bool,
}

impl Decryptor {
    /// Reads into `buffer`. Frames that fit are decrypted directly into it.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncRead + Unpin),
        state: &mut TransportState,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let produced = self.decrypt_available(state, buffer);
            if produced > 0 {
                return Poll::Ready(Ok(produced));
            }
            if self.has_failed {
                let why = "a frame could not be authenticated";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            // Everything that is available was read, so `plaintext` is empty, and `ciphertext` is empty
            // or an incomplete frame.
            match self.poll_fill(cx, socket, state, buffer)? {
                // A part of a frame, an empty frame, or one that does not fit into `buffer`.
                Poll::Ready(Some(0)) => {}
                Poll::Ready(Some(produced)) => return Poll::Ready(Ok(produced)),
                Poll::Ready(None) if self.ciphertext.is_empty() => return Poll::Ready(Ok(0)),
                Poll::Ready(None) => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Pending => {
                    self.release();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Moves data that has already arrived into `buffer`. Returns its length.
    fn decrypt_available(&mut self, state: &mut TransportState, buffer: &mut [u8]) -> usize {
        if self.plaintext.is_empty() && !self.has_failed {
            let decrypted = decrypt_frames(state, &self.ciphertext, buffer);
            self.has_failed = decrypted.has_failed;
            self.ciphertext.advance(decrypted.consumed);
            if decrypted.produced > 0 {
                return decrypted.produced;
            }
            self.decrypt_to_buffer(state);
        }
        self.plaintext.take(buffer)
    }

    /// Decrypts the next frame into `plaintext`, if it is complete, because it does not fit into the
    /// reader's buffer.
    fn decrypt_to_buffer(&mut self, state: &mut TransportState) {
        let Some(message) = message(&self.ciphertext).filter(|_| !self.has_failed) else {
            return;
        };
        let used = LENGTH_BYTES + message.len();
        let has_failed = &mut self.has_failed;
        self.plaintext.fill(message.len(), |space| {
            let length = state.read_message(message, space);
            *has_failed = length.is_err();
            length.unwrap_or(0)
        });
        self.ciphertext.advance(used);
    }

    /// Reads once from the socket, and decrypts the frames that this completes into `buffer`. Returns
    /// the number of decrypted bytes, which may be 0, or `None` at the end of the socket.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncRead + Unpin),
        state: &mut TransportState,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        // The space is one frame of maximum length minus the part that is held, so what is held
        // afterwards is never longer than a frame. Frames of maximum length take one call each.
        thread_buffer::with(MAX_FRAME_BYTES, |frames| {
            let held = self.ciphertext.len().min(frames.len());
            let (before, space) = frames.split_at_mut(held);
            let read = ready!(Pin::new(socket).poll_read(cx, space))?;
            if read == 0 {
                return Poll::Ready(Ok(None));
            }
            // The frame stays incomplete: only the new bytes are copied. So a frame that arrives in
            // many short reads costs linear time.
            if read < self.missing() {
                let arrived = space.get(..read).unwrap_or_default();
                self.retain(arrived);
                return Poll::Ready(Ok(Some(0)));
            }
            before.copy_from_slice(&self.ciphertext);
            self.ciphertext.clear();
            let frames = frames.get(..held + read).unwrap_or_default();
            let decrypted = decrypt_frames(state, frames, buffer);
            self.has_failed = decrypted.has_failed;
            let rest = frames.get(decrypted.consumed..).unwrap_or_default();
            self.retain(rest);
            Poll::Ready(Ok(Some(decrypted.produced)))
        })
    }

    /// The number of missing bytes of the incomplete frame, or 0 if its length is not known.
    fn missing(&self) -> usize {
        frame_bytes(&self.ciphertext)
            .map_or(0, |length| length.saturating_sub(self.ciphertext.len()))
    }

    /// Appends bytes to `ciphertext`. The capacity is limited to an incomplete frame, whose last byte is
    /// never stored.
    fn retain(&mut self, arrived: &[u8]) {
        let first = if self.ciphertext.is_empty() {
            arrived
        } else {
            &self.ciphertext
        };
        let limit = frame_bytes(first).map_or(0, |length| length.saturating_sub(1));
        self.ciphertext.append(arrived, limit);
    }

    /// Releases memory that is not needed while there is nothing to read.
    fn release(&mut self) {
        self.plaintext.release();
        self.ciphertext.release();
    }

    /// The memory of the buffers in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.plaintext.held_bytes() + self.ciphertext.held_bytes()
    }
}

/// The length of the frame at the start of `bytes`, if its length prefix is complete.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk()?;
    Some(LENGTH_BYTES + usize::from(u16::from_be_bytes(*length)))
}

/// The result of decrypting a sequence of frames.
#[derive(Default)]
struct Decrypted {
    /// The number of bytes of the frames that were decrypted.
    consumed: usize,
    /// The number of bytes of plaintext.
    produced: usize,
    /// Whether a frame could not be authenticated.
    has_failed: bool,
}

/// Decrypts frames into `buffer` as long as they are complete and fit.
fn decrypt_frames(state: &mut TransportState, frames: &[u8], buffer: &mut [u8]) -> Decrypted {
    let mut decrypted = Decrypted::default();
    while let Some(message) = frames.get(decrypted.consumed..).and_then(message) {
        let space = buffer.get_mut(decrypted.produced..).unwrap_or_default();
        if message.len().saturating_sub(TAG_BYTES) > space.len() {
            break;
        }
        let Ok(produced) = state.read_message(message, space) else {
            decrypted.has_failed = true;
            break;
        };
        decrypted.produced += produced;
        decrypted.consumed += LENGTH_BYTES + message.len();
    }
    decrypted
}
