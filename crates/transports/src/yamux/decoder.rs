//! The position in the remote's sequence of frames.

use super::frame::HEADER_LEN;

/// The position in the remote's sequence of frames.
///
/// Either part of a header has arrived (`payload` is `None`), or part of a payload.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    header: [u8; HEADER_LEN],
    /// The number of bytes of `header` that have arrived.
    filled: usize,
    /// The payload of the last header, while part of it is missing.
    pub(super) payload: Option<Payload>,
}

/// A payload that is being received. Nothing is allocated for bytes that have not arrived: the
/// length in the header is a claim of the remote.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload {
    /// The receiving stream. `None` discards the payload: the stream was unknown when the header
    /// arrived. If a stream of this id is opened before the payload is complete, it must not get
    /// these bytes, since no window was reserved for them.
    pub(super) stream: Option<u32>,
    pub(super) missing: usize,
    /// Whether the payload ends with FIN.
    pub(super) fin: bool,
}

impl Decoder {
    /// Whether a part of a payload for this stream is still missing.
    pub(super) fn is_receiving(&self, stream: u32) -> bool {
        self.payload
            .is_some_and(|payload| payload.stream == Some(stream))
    }

    /// Moves the missing bytes of a header from `bytes`. Returns the header once it is complete.
    pub(super) fn header(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEADER_LEN]> {
        let space = self.header.get_mut(self.filled..).unwrap_or_default();
        let n = space.len().min(bytes.len());
        let (now, later) = bytes.split_at(n);
        let (space, _) = space.split_at_mut(n);
        space.copy_from_slice(now);
        *bytes = later;
        self.filled += n;
        if self.filled < HEADER_LEN {
            return None;
        }
        // The next call begins a new header: `filled` is the only state.
        self.filled = 0;
        Some(self.header)
    }
}
