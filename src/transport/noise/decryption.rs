//! From frames on the socket to what is read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::AsyncRead;
use snow::TransportState;

use super::{LENGTH_BYTES, MAX_FRAME_BYTES, TAG_BYTES, message};
use crate::{thread_buffer, transport::buffered::Buffer};

/// What has arrived and is not read yet.
#[derive(Default)]
pub(super) struct Decryptor {
    /// What was decrypted and found no room: the rest of one frame.
    plaintext: Buffer,
    /// What is still encrypted, no longer than the longest frame: whole frames that find no room, or
    /// the part of an incomplete frame that has arrived. Its memory is at most a quarter more.
    ciphertext: Buffer,
    /// A frame was not what the other side has sent.
    has_failed: bool,
}

impl Decryptor {
    /// Reads into `buffer`. Frames for which it has room are decrypted straight into it.
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
                let why = "a frame was tampered with";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            match self.poll_fill(cx, socket, state, buffer)? {
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

    /// Gives what is there.
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

    /// Decrypts the next frame, if it is whole, which the reader has too little room for.
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

    /// Reads once from the socket, and gives what that completes, which may be nothing; `None` if
    /// the socket has ended.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncRead + Unpin),
        state: &mut TransportState,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        // Room for one of the longest frames, which is more than the part that was held of it: what
        // is held afterwards is never longer. Where frames are that long, each comes by one call.
        thread_buffer::with(MAX_FRAME_BYTES, |frames| {
            let held = self.ciphertext.len().min(frames.len());
            let (before, space) = frames.split_at_mut(held);
            let read = ready!(Pin::new(socket).poll_read(cx, space))?;
            if read == 0 {
                return Poll::Ready(Ok(None));
            }
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

    /// How many bytes the frame lacks that has begun to arrive, as far as it is known. They are
    /// awaited without touching the others again, however slowly they come.
    fn missing(&self) -> usize {
        frame_bytes(&self.ciphertext)
            .map_or(0, |length| length.saturating_sub(self.ciphertext.len()))
    }

    /// Keeps bytes behind those that are held. There is never memory for more than an incomplete
    /// frame: its last byte completes it.
    fn retain(&mut self, arrived: &[u8]) {
        let first = if self.ciphertext.is_empty() {
            arrived
        } else {
            &self.ciphertext
        };
        let most = frame_bytes(first).map_or(0, |length| length.saturating_sub(1));
        self.ciphertext.append(arrived, most);
    }

    /// Gives memory back, as there is nothing to read.
    fn release(&mut self) {
        self.plaintext.release();
        self.ciphertext.release();
    }

    /// The memory that is held.
    pub(super) fn held_bytes(&self) -> usize {
        self.plaintext.held_bytes() + self.ciphertext.held_bytes()
    }
}

/// The length of the frame that `bytes` begin with, if it has arrived.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk()?;
    Some(LENGTH_BYTES + usize::from(u16::from_be_bytes(*length)))
}

/// What came of a row of frames.
#[derive(Default)]
struct Decrypted {
    /// How many bytes of the frames are done with.
    consumed: usize,
    /// How many bytes were decrypted.
    produced: usize,
    has_failed: bool,
}

/// Decrypts frames as long as they are whole and fit into `buffer`.
fn decrypt_frames(state: &mut TransportState, frames: &[u8], buffer: &mut [u8]) -> Decrypted {
    let mut decrypted = Decrypted::default();
    while let Some(message) = frames.get(decrypted.consumed..).and_then(message) {
        let room = buffer.get_mut(decrypted.produced..).unwrap_or_default();
        if message.len().saturating_sub(TAG_BYTES) > room.len() {
            break;
        }
        let Ok(produced) = state.read_message(message, room) else {
            decrypted.has_failed = true;
            break;
        };
        decrypted.produced += produced;
        decrypted.consumed += LENGTH_BYTES + message.len();
    }
    decrypted
}
