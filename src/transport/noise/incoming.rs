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
pub(super) struct Incoming {
    /// What was decrypted and found no room: the rest of one frame.
    opened: Buffer,
    /// What is still encrypted, no longer than the longest frame: whole frames that find no room, or
    /// the part of an incomplete frame that has arrived. Its memory is at most a quarter more.
    sealed: Buffer,
    /// A frame was not what the other side has sent.
    is_broken: bool,
}

impl Incoming {
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
            let given = self.give(state, buffer);
            if given > 0 {
                return Poll::Ready(Ok(given));
            }
            if self.is_broken {
                let why = "a frame was tampered with";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            match self.poll_fill(cx, socket, state, buffer)? {
                Poll::Ready(Some(0)) => {}
                Poll::Ready(Some(given)) => return Poll::Ready(Ok(given)),
                Poll::Ready(None) if self.sealed.is_empty() => return Poll::Ready(Ok(0)),
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
    fn give(&mut self, state: &mut TransportState, buffer: &mut [u8]) -> usize {
        if self.opened.is_empty() && !self.is_broken {
            let opened = open(state, &self.sealed, buffer);
            self.is_broken = opened.is_broken;
            self.sealed.advance(opened.used);
            if opened.given > 0 {
                return opened.given;
            }
            self.open_aside(state);
        }
        self.opened.take(buffer)
    }

    /// Decrypts the next frame, if it is whole, which the reader has too little room for.
    fn open_aside(&mut self, state: &mut TransportState) {
        let Some(message) = message(&self.sealed).filter(|_| !self.is_broken) else {
            return;
        };
        let used = LENGTH_BYTES + message.len();
        let is_broken = &mut self.is_broken;
        self.opened.fill(message.len(), |space| {
            let length = state.read_message(message, space);
            *is_broken = length.is_err();
            length.unwrap_or(0)
        });
        self.sealed.advance(used);
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
            let held = self.sealed.len().min(frames.len());
            let (before, space) = frames.split_at_mut(held);
            let read = ready!(Pin::new(socket).poll_read(cx, space))?;
            if read == 0 {
                return Poll::Ready(Ok(None));
            }
            if read < self.missing() {
                let arrived = space.get(..read).unwrap_or_default();
                self.hold(arrived);
                return Poll::Ready(Ok(Some(0)));
            }
            before.copy_from_slice(&self.sealed);
            self.sealed.clear();
            let frames = frames.get(..held + read).unwrap_or_default();
            let opened = open(state, frames, buffer);
            self.is_broken = opened.is_broken;
            let rest = frames.get(opened.used..).unwrap_or_default();
            self.hold(rest);
            Poll::Ready(Ok(Some(opened.given)))
        })
    }

    /// How many bytes the frame lacks that has begun to arrive, as far as it is known. They are
    /// awaited without touching the others again, however slowly they come.
    fn missing(&self) -> usize {
        frame_bytes(&self.sealed).map_or(0, |length| length.saturating_sub(self.sealed.len()))
    }

    /// Keeps bytes behind those that are held. There is never memory for more than an incomplete
    /// frame: its last byte completes it.
    fn hold(&mut self, arrived: &[u8]) {
        let first = if self.sealed.is_empty() {
            arrived
        } else {
            &self.sealed
        };
        let most = frame_bytes(first).map_or(0, |length| length.saturating_sub(1));
        self.sealed.append(arrived, most);
    }

    /// Gives memory back, as there is nothing to read.
    fn release(&mut self) {
        self.opened.release();
        self.sealed.release();
    }

    /// The memory that is held.
    pub(super) fn held_bytes(&self) -> usize {
        self.opened.held_bytes() + self.sealed.held_bytes()
    }
}

/// The length of the frame that `bytes` begin with, if it has arrived.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk()?;
    Some(LENGTH_BYTES + usize::from(u16::from_be_bytes(*length)))
}

/// What came of a row of frames.
#[derive(Default)]
struct Opened {
    /// How many bytes of the frames are done with.
    used: usize,
    /// How many bytes were decrypted.
    given: usize,
    is_broken: bool,
}

/// Decrypts frames as long as they are whole and fit into `buffer`.
fn open(state: &mut TransportState, frames: &[u8], buffer: &mut [u8]) -> Opened {
    let mut opened = Opened::default();
    while let Some(message) = frames.get(opened.used..).and_then(message) {
        let room = buffer.get_mut(opened.given..).unwrap_or_default();
        if message.len().saturating_sub(TAG_BYTES) > room.len() {
            break;
        }
        let Ok(given) = state.read_message(message, room) else {
            opened.is_broken = true;
            break;
        };
        opened.given += given;
        opened.used += LENGTH_BYTES + message.len();
    }
    opened
}
