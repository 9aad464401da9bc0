//! A byte queue of chunks, which releases its memory as it drains.

use std::{collections::VecDeque, ops::Deref};

use bytes::Bytes;
use stream_io::chunk_passing;

/// The minimum capacity of a chunk in bytes, so that many short writes share an allocation.
const MIN_CHUNK_BYTES: usize = 1024;

/// The maximum capacity, in chunks, that an empty queue keeps.
const MAX_SPARE_SLOTS: usize = 8;

/// An element of the queue.
#[derive(Debug)]
pub(super) enum Chunk {
    /// Owned by the queue, which may append to it.
    Owned(Vec<u8>),
    /// Reference-counted, and possibly a part of a larger buffer.
    Shared(Bytes),
}

impl Chunk {
    /// The memory that the chunk is charged for, in bytes. A shared chunk may be a part of a buffer
    /// of up to twice its length.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.capacity(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// The number of bytes that may be appended.
    fn spare(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.capacity() - bytes.len(),
            Self::Shared(_) => 0,
        }
    }

    /// Whether the chunk is worth passing on without a copy: it is neither short, nor more than half
    /// empty.
    fn is_shareable(&self) -> bool {
        self.len() >= chunk_passing::MIN_BYTES && self.spare() <= self.len()
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl From<Chunk> for Bytes {
    fn from(chunk: Chunk) -> Self {
        match chunk {
            Chunk::Owned(bytes) => bytes.into(),
            Chunk::Shared(bytes) => bytes,
        }
    }
}

/// A byte queue, in chunks of the sizes in which the bytes were appended.
///
/// Beyond the bytes themselves the queue holds at most the unused capacity of its last chunk and the
/// part of its first chunk that was read. An empty queue holds no chunk.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    queue: VecDeque<Chunk>,
    /// The number of bytes of the first chunk that were read.
    offset: usize,
    len: usize,
    held: usize,
}

impl Chunks {
    /// The number of bytes in the queue.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory that the chunks occupy, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.held
    }

    /// Appends a copy of `bytes`. If a new chunk is allocated, `expected` is its minimum capacity, for
    /// callers that know that more bytes follow.
    pub(super) fn push(&mut self, bytes: &[u8], expected: usize) {
        self.len += bytes.len();
        let spare = self.queue.back().map_or(0, Chunk::spare);
        let (fitting, rest) = bytes.split_at(spare.min(bytes.len()));
        if let Some(Chunk::Owned(last)) = self.queue.back_mut() {
            last.extend_from_slice(fitting);
        }
        if !rest.is_empty() {
            let expected = expected.saturating_sub(fitting.len());
            let mut chunk = Vec::with_capacity(rest.len().max(expected).max(MIN_CHUNK_BYTES));
            chunk.extend_from_slice(rest);
            self.held += chunk.capacity();
            self.queue.push_back(Chunk::Owned(chunk));
        }
    }

    /// Appends a chunk without a copy.
    pub(super) fn push_shared(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        self.held += chunk.len();
        self.queue.push_back(Chunk::Shared(chunk));
    }

    /// Moves as many bytes into `buf` as there are and as fit, and returns their number. Stops before
    /// a chunk that can be passed on without a copy, unless it is the first.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < buf.len() {
            let Some(first) = self.queue.front() else {
                break;
            };
            if filled > 0 && self.offset == 0 && first.is_shareable() {
                break;
            }
            let unread = first.get(self.offset..).unwrap_or_default();
            let space = buf.get_mut(filled..).unwrap_or_default();
            let n = unread.len().min(space.len());
            let (space, _) = space.split_at_mut(n);
            let (now, _) = unread.split_at(n);
            space.copy_from_slice(now);
            filled += n;
            self.offset += n;
            if self.offset == first.len() {
                self.drop_first();
            }
        }
        self.len -= filled;
        filled
    }

    /// Removes the first chunk, if it is unread, can be passed on without a copy, and has at most
    /// `max` bytes.
    pub(super) fn pop_shared(&mut self, max: usize) -> Option<Bytes> {
        let first = self.queue.front()?;
        if self.offset > 0 || first.len() > max || !first.is_shareable() {
            return None;
        }
        self.pop().map(Bytes::from)
    }

    /// Removes the first chunk. Must not be called while the chunk is partly read.
    pub(super) fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.queue.pop_front()?;
        self.len -= chunk.len();
        self.held -= chunk.held_bytes();
        self.release_slots();
        Some(chunk)
    }

    fn drop_first(&mut self) {
        let chunk = self.queue.pop_front();
        self.held -= chunk.map_or(0, |chunk| chunk.held_bytes());
        self.offset = 0;
        self.release_slots();
    }

    fn release_slots(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > MAX_SPARE_SLOTS {
            self.queue = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_in_order_in_chunks_of_any_size() {
        let data: Vec<u8> = (0..10_000_u32).map(|i| i.to_be_bytes()[3]).collect();
        let mut chunks = Chunks::default();
        for chunk in data.chunks(777) {
            chunks.push(chunk, 0);
        }
        assert_eq!(chunks.len(), data.len());

        let mut out = Vec::new();
        let mut buf = [0; 333];
        loop {
            let n = chunks.read(&mut buf);
            if n == 0 {
                break;
            }
            out.extend_from_slice(&buf[..n]);
        }
        assert_eq!(out, data);
        assert!(chunks.is_empty() && chunks.queue.is_empty());
        assert_eq!(chunks.held_bytes(), 0);
    }

    #[test]
    fn single_bytes_share_a_chunk() {
        let mut chunks = Chunks::default();
        for byte in 0..200 {
            chunks.push(&[byte], 0);
        }
        assert_eq!(chunks.queue.len(), 1);
        assert_eq!(chunks.held_bytes(), MIN_CHUNK_BYTES);
        assert_eq!(chunks.pop().map(|chunk| chunk.len()), Some(200));
        assert_eq!(chunks.len(), 0);
    }

    #[test]
    fn partly_read_short_or_sparse_chunks_are_not_shared() {
        const LEN: usize = chunk_passing::MIN_BYTES;
        let whole = |len, expected| {
            let mut chunks = Chunks::default();
            chunks.push(&vec![1; len], expected);
            chunks
        };
        let mut chunks = whole(LEN, 2 * LEN);
        assert_eq!(chunks.pop_shared(LEN - 1), None);
        let chunk = chunks.pop_shared(LEN).unwrap();
        assert_eq!((chunk.len(), chunks.len()), (LEN, 0));
        assert_eq!(whole(LEN - 1, 0).pop_shared(LEN), None);
        assert_eq!(whole(LEN, 2 * LEN + 1).pop_shared(LEN), None);

        let mut begun = whole(LEN + 1, 0);
        assert_eq!(begun.read(&mut [0]), 1);
        assert_eq!(begun.pop_shared(LEN), None);

        // A read stops before a chunk that can be shared, and the next one copies it.
        chunks.push(&[1; 10], 0);
        chunks.push_shared(chunk);
        assert_eq!(chunks.read(&mut [0; 2 * LEN]), 10);
        assert_eq!(chunks.read(&mut [0; 2 * LEN]), LEN);
    }

    #[test]
    fn header_and_payload_share_a_chunk() {
        let mut chunks = Chunks::default();
        chunks.push(&[0; 12], 12 + 65_536);
        chunks.push(&vec![1; 65_536], 0);
        assert_eq!(chunks.queue.len(), 1);
    }
}
