//! WebSocket frames of bounded length, whatever their sender announces.
//!
//! libp2p's WebSocket makes room for a whole frame as soon as its header has arrived. A [`FrameSplitter`]
//! lies between it and the socket of an accepted connection, and divides each data frame into frames
//! of at most [`MAX_FRAME_BYTES`], which are complete messages. Nothing is copied for that: only
//! headers are replaced. The bytes are the same, and the limits of messages mean nothing to libp2p,
//! for which a WebSocket is a stream of bytes.
//!
//! A splitter also knows what the WebSocket holds for each direction, and [reports](super::buffered)
//! it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

use super::buffered::ReportedBytes;

/// The longest data frame that the WebSocket gets to see. A multiple of the length of a mask, so that
/// the mask of a frame is that of all its parts.
pub const MAX_FRAME_BYTES: usize = 32 * 1024;
const _: () = assert!(MAX_FRAME_BYTES.is_multiple_of(MASK_BYTES));

/// Two bytes, a length of eight bytes, and a mask.
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

/// See the documentation of the module.
#[derive(Debug)]
pub struct FrameSplitter<C> {
    io: C,
    /// `None` leaves everything as it is.
    frames: Option<Frames>,
    reported: ReportedBytes,
}

/// Both directions of an accepted connection.
#[derive(Debug, Default)]
struct Frames {
    inbound: InboundFrames,
    outbound: OutboundFrames,
}

/// Where the remote is in its sequence of frames.
#[derive(Debug, Default)]
struct InboundFrames {
    request: HttpHead,
    /// The header that is being read.
    header: Header,
    /// What stands for it, and how much of that was passed on.
    replacement: Header,
    copied: usize,
    mask: Option<[u8; MASK_BYTES]>,
    /// What is missing of the current part of the frame, and what is behind that.
    part_left: u64,
    frame_left: u64,
    /// The lengths of the last part, which the reader keeps until the next is complete, and of the
    /// current one.
    held: [usize; 2],
}

/// Where the WebSocket is in its sequence of frames.
#[derive(Debug, Default)]
struct OutboundFrames {
    response: HttpHead,
    /// The payload of the current frame, which is held until all of it is written.
    payload: u64,
    /// What is missing of the frame.
    left: u64,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    bytes: [u8; MAX_HEADER_BYTES],
    length: usize,
}

/// The head of an HTTP message, which ends with an empty line.
#[derive(Debug, Default)]
struct HttpHead {
    is_complete: bool,
    /// Whether the line has nothing in it so far. The first line does not count: it is not empty, or
    /// the message is not valid.
    is_empty_line: bool,
}

impl<C> FrameSplitter<C> {
    /// Divides the frames that arrive on `io`, a connection that was accepted.
    pub fn new(io: C) -> Self {
        Self {
            io,
            frames: Some(Frames::default()),
            reported: ReportedBytes::default(),
        }
    }

    /// Leaves everything as it is, on a connection that was dialled.
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
    /// Takes `bytes` up to the end of the head. Returns how many.
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

    /// How long the header is, as far as its bytes say.
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

    /// The length of the payload, once the header is complete.
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

    /// Whether it is that of data, as the specification has it.
    fn is_data(&self) -> bool {
        let [first, ..] = self.bytes;
        first & RESERVED == 0 && first & OPCODE <= BINARY
    }

    /// A complete message.
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
            if self.part_left > 0 {
                let most = usize::try_from(self.part_left).unwrap_or(usize::MAX);
                let (space, _) = buffer.split_at_mut(most.min(buffer.len()));
                let read = ready!(Pin::new(io).poll_read(cx, space))?;
                self.part_left -= read as u64;
                return Poll::Ready(Ok(read));
            }
            if self.frame_left > 0 {
                self.begin_part();
                continue;
            }
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

    /// A header has arrived.
    fn begin_frame(&mut self) {
        let header = std::mem::take(&mut self.header);
        if header.is_data() {
            self.mask = header.mask();
            self.frame_left = header.payload();
            self.begin_part();
        } else {
            // Control frames are short; the WebSocket rejects others by their header.
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

    /// The WebSocket wants to write `bytes`. It begins each frame by writing its header.
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

    /// The socket took `bytes`.
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
