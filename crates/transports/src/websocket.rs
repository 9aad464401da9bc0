//! WebSocket frames of bounded length.
//!
//! libp2p's WebSocket implementation allocates a whole frame as soon as its header has arrived. A
//! [`FrameSplitter`] is inserted between it and the socket of an accepted connection, and splits each
//! data frame into frames of at most [`MAX_FRAME_BYTES`], each of which is a complete message. No
//! payload is copied: only headers are replaced. The data is the same, and libp2p treats a WebSocket as
//! a byte stream, without regard to message boundaries.
//!
//! A splitter also tracks the bytes that the WebSocket implementation buffers in each direction, and
//! [reports](super::buffered) them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

use super::buffered::ReportedBytes;

/// The maximum payload of a data frame after splitting. It is a multiple of the length of a mask, so that
/// the mask of a frame applies to each of its parts unchanged.
pub const MAX_FRAME_BYTES: usize = 32 * 1024;
const _: () = assert!(MAX_FRAME_BYTES.is_multiple_of(MASK_BYTES));

/// The maximum length of a header: two bytes, a length of eight bytes, and a mask.
const MAX_HEADER_BYTES: usize = 2 + 8 + MASK_BYTES;
const MASK_BYTES: usize = 4;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const BINARY: u8 = 2;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// A socket that splits long WebSocket frames, see [the module](self).
#[derive(Debug)]
pub struct FrameSplitter<C> {
    io: C,
    /// `None` passes everything through unchanged.
    frames: Option<Frames>,
    reported: ReportedBytes,
}

/// The state of both directions of an accepted connection.
#[derive(Debug, Default)]
struct Frames {
    inbound: InboundFrames,
    outbound: OutboundFrames,
}

/// The position in the remote's sequence of frames.
///
/// After the HTTP request, the state is one of the following, in this order for each frame: a header is
/// being received; the replacement header is being copied to the reader; the payload is being passed
/// through. A long frame repeats the last two for each part.
#[derive(Debug, Default)]
struct InboundFrames {
    request: HttpHead,
    /// The header that is being received.
    header: Header,
    /// The replacement header, and the number of its bytes that were copied to the reader.
    replacement: Header,
    copied: usize,
    mask: Option<[u8; MASK_BYTES]>,
    /// The number of missing bytes of the current part, and of the frame after it.
    part_left: u64,
    frame_left: u64,
    /// The lengths of the previous part, which the reader buffers until the next one is complete, and of
    /// the current one.
    held: [usize; 2],
}

/// The position in the sequence of frames that the WebSocket implementation writes.
#[derive(Debug, Default)]
struct OutboundFrames {
    response: HttpHead,
    /// The payload of the current frame, which is buffered until all of it is written.
    payload: u64,
    /// The number of bytes of the frame that are not written.
    left: u64,
}

/// The header of a frame, or a part of it.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    bytes: [u8; MAX_HEADER_BYTES],
    length: usize,
}

/// A parser for the end of the head of an HTTP message, which is an empty line.
#[derive(Debug, Default)]
struct HttpHead {
    is_complete: bool,
    /// Whether the current line is empty so far. `false` in the first line, which a valid message does
    /// not leave empty.
    is_empty_line: bool,
}

impl<C> FrameSplitter<C> {
    /// Splits the frames that arrive on the accepted connection `io`.
    pub fn new(io: C) -> Self {
        Self {
            io,
            frames: Some(Frames::default()),
            reported: ReportedBytes::default(),
        }
    }

    /// Passes all bytes of the dialled connection `io` through unchanged.
    pub fn transparent(io: C) -> Self {
        Self {
            io,
            frames: None,
            reported: ReportedBytes::default(),
        }
    }

    fn report(&mut self) {
        if let Some(Frames { inbound, outbound }) = &self.frames {
            let outbound = usize::try_from(outbound.held_bytes()).unwrap_or(usize::MAX);
            let inbound: usize = inbound.held.iter().sum();
            self.reported.update(inbound.saturating_add(outbound));
        }
    }
}

impl HttpHead {
    /// Consumes `bytes` up to the end of the head. Returns the number of bytes consumed.
    fn consume(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.is_empty_line => {
                    self.is_complete = true;
                    return at + 1;
                }
                b'\n' => self.is_empty_line = true,
                b'\r' => {}
                _ => self.is_empty_line = false,
            }
        }
        bytes.len()
    }
}

impl Header {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        for (space, byte) in self.bytes.iter_mut().skip(self.length).zip(bytes) {
            *space = *byte;
            self.length += 1;
        }
    }

    /// The length of the header as far as it is known: the first two bytes determine it.
    fn expected(&self) -> usize {
        let [_, second, ..] = self.bytes;
        if self.length < 2 {
            return 2;
        }
        let length = match second & LENGTH {
            LENGTH_16 => 2,
            LENGTH_64 => 8,
            _ => 0,
        };
        2 + length + if second & MASKED == 0 { 0 } else { MASK_BYTES }
    }

    /// The length of the payload. The header must be complete.
    fn payload(&self) -> u64 {
        let [_, second, extended @ ..] = self.bytes;
        let extended = u64::from_be_bytes(extended.first_chunk().copied().unwrap_or_default());
        match second & LENGTH {
            LENGTH_16 => extended >> 48,
            LENGTH_64 => extended,
            short => u64::from(short),
        }
    }

    fn mask(&self) -> Option<[u8; MASK_BYTES]> {
        let [_, second, ..] = self.bytes;
        let mask = self.bytes().last_chunk().copied();
        mask.filter(|_| second & MASKED != 0)
    }

    /// Whether this is the header of a valid data frame.
    fn is_data(&self) -> bool {
        let [first, ..] = self.bytes;
        first & RESERVED == 0 && first & OPCODE <= BINARY
    }

    /// The header of a frame that is a complete binary message.
    fn message(payload: u64, mask: Option<[u8; MASK_BYTES]>) -> Self {
        let mut header = Self::default();
        let masked = if mask.is_some() { MASKED } else { 0 };
        header.push(&[FIN | BINARY]);
        match (u8::try_from(payload), u16::try_from(payload)) {
            (Ok(short), _) if short < LENGTH_16 => header.push(&[masked | short]),
            (_, Ok(length)) => {
                header.push(&[masked | LENGTH_16]);
                header.push(&length.to_be_bytes());
            }
            _ => {
                header.push(&[masked | LENGTH_64]);
                header.push(&payload.to_be_bytes());
            }
        }
        header.push(mask.as_ref().map_or(&[], |mask| mask));
        header
    }
}

impl InboundFrames {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !self.request.is_complete {
            let read = ready!(Pin::new(io).poll_read(cx, buffer))?;
            let arrived = buffer.get(..read).unwrap_or_default();
            // A client must not send frames before it has the response. If it does, they are already in
            // the reader's buffer, and cannot be split.
            if self.request.consume(arrived) < read {
                let why = "data before the WebSocket was accepted";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            return Poll::Ready(Ok(read));
        }
        loop {
            let replacement = self.replacement.bytes();
            let replacement = replacement.get(self.copied..).unwrap_or_default();
            if !replacement.is_empty() {
                let count = replacement.len().min(buffer.len());
                let ((space, _), (bytes, _)) =
                    (buffer.split_at_mut(count), replacement.split_at(count));
                space.copy_from_slice(bytes);
                self.copied += count;
                return Poll::Ready(Ok(count));
            }
            // The replacement header is copied completely.
            if self.part_left > 0 {
                let limit = usize::try_from(self.part_left).unwrap_or(usize::MAX);
                let (space, _) = buffer.split_at_mut(limit.min(buffer.len()));
                let read = ready!(Pin::new(io).poll_read(cx, space))?;
                self.part_left -= read as u64;
                return Poll::Ready(Ok(read));
            }
            if self.frame_left > 0 {
                self.begin_part();
                continue;
            }
            // The frame is complete. No byte beyond the header is read into `space`.
            let mut space = [0; MAX_HEADER_BYTES];
            let missing = self.header.expected() - self.header.length;
            let (space, _) = space.split_at_mut(missing.min(MAX_HEADER_BYTES));
            let read = ready!(Pin::new(&mut *io).poll_read(cx, space))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            self.header.push(space.get(..read).unwrap_or_default());
            if self.header.length == self.header.expected() {
                self.begin_frame();
            }
        }
    }

    /// Called when a header is complete.
    fn begin_frame(&mut self) {
        let header = std::mem::take(&mut self.header);
        if header.is_data() {
            self.mask = header.mask();
            self.frame_left = header.payload();
            self.begin_part();
        } else {
            // Control frames are passed through: they are short. The WebSocket implementation rejects
            // invalid frames by their header.
            self.replacement = header;
            self.copied = 0;
            self.part_left = header.payload();
        }
    }

    fn begin_part(&mut self) {
        self.part_left = self.frame_left.min(MAX_FRAME_BYTES as u64);
        self.frame_left -= self.part_left;
        self.replacement = Header::message(self.part_left, self.mask);
        self.copied = 0;
        let [_, last] = self.held;
        self.held = [last, usize::try_from(self.part_left).unwrap_or(usize::MAX)];
    }
}

impl OutboundFrames {
    fn held_bytes(&self) -> u64 {
        if self.left > 0 { self.payload } else { 0 }
    }

    /// Called before `bytes` are written. The WebSocket implementation starts each frame with a write of
    /// its header.
    fn begin(&mut self, bytes: &[u8]) {
        if self.response.is_complete && self.left == 0 {
            let mut header = Header::default();
            header.push(bytes.get(..2).unwrap_or_default());
            let expected = header.expected();
            header.push(bytes.get(2..expected).unwrap_or_default());
            self.payload = header.payload();
            self.left = self.payload.saturating_add(expected as u64);
        }
    }

    /// Called after `bytes` were written to the socket.
    fn written(&mut self, bytes: &[u8]) {
        if self.response.is_complete {
            self.left = self.left.saturating_sub(bytes.len() as u64);
        } else {
            self.response.consume(bytes);
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for FrameSplitter<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let read = match &mut this.frames {
            Some(frames) => frames.inbound.poll_read(cx, &mut this.io, buffer),
            None => Pin::new(&mut this.io).poll_read(cx, buffer),
        };
        this.report();
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for FrameSplitter<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(frames) = &mut this.frames {
            frames.outbound.begin(bytes);
        }
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        if let (Some(frames), Poll::Ready(Ok(count))) = (&mut this.frames, &written) {
            let bytes = bytes.get(..*count).unwrap_or_default();
            frames.outbound.written(bytes);
        }
        this.report();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;
