//! Pieces of bytes that go on from one stream to another as they are, instead of being copied from
//! the one to a buffer and from that to the other.
//!
//! A circuit has its streams from libp2p, which keeps them in boxes and knows nothing but slices. So
//! whoever wants a piece, or has one, says so to the thread for as long as one call takes. A stream
//! that knows of this takes part. Any other leaves it, as does whatever lies in between and does
//! something of its own with the bytes: then they are copied as ever, and nothing is lost.

use std::cell::{Cell, RefCell};

use bytes::Bytes;

/// What is shorter costs less to copy, and waits together with others.
pub const MIN_BYTES: usize = 4096;

thread_local! {
    /// How long a piece may be that is wanted just now; 0 while nobody wants one.
    static WANTED: Cell<usize> = const { Cell::new(0) };
    /// What is being handed over.
    static PIECE: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Whoever comes next finds nothing, also after a panic.
struct Cleared;

impl Drop for Cleared {
    fn drop(&mut self) {
        WANTED.set(0);
        PIECE.take();
    }
}

/// What a stream hands over, of `max` bytes at most, while it is read by `read` into no room. It is
/// not asked for less than [`MIN_BYTES`].
///
/// Without a piece it has to be read as ever: nothing else is known then, and nobody will wake the
/// task.
pub fn take<R>(max: usize, read: impl FnOnce() -> R) -> Option<Bytes> {
    if max < MIN_BYTES {
        return None;
    }
    let _cleared = Cleared;
    WANTED.set(max);
    read();
    PIECE.take()
}

/// For a stream that is being read into no room: how long a piece may be; `None` if none is wanted.
pub fn wanted() -> Option<usize> {
    Some(WANTED.get()).filter(|&max| max > 0)
}

/// For a stream that is being read, and has a piece that is [`wanted`].
pub fn give(piece: Bytes) {
    PIECE.set(Some(piece));
}

/// Writes `piece` by `write`, which gets its bytes. A stream may keep the piece instead of a copy.
pub fn offer<R>(piece: &Bytes, write: impl FnOnce(&[u8]) -> R) -> R {
    let _cleared = Cleared;
    if piece.len() >= MIN_BYTES {
        PIECE.set(Some(piece.clone()));
    }
    write(piece)
}

/// For a stream that `bytes` are being written to: the piece that they are, if they are one.
pub fn offered(bytes: &[u8]) -> Option<Bytes> {
    PIECE.take().filter(|piece| {
        let piece: &[u8] = piece;
        std::ptr::eq(piece, bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece() -> Bytes {
        Bytes::from(vec![7; MIN_BYTES])
    }

    #[test]
    fn a_piece_passes_while_it_is_wanted() {
        assert_eq!(wanted(), None);
        let taken = take(MIN_BYTES, || {
            assert_eq!(wanted(), Some(MIN_BYTES));
            give(piece());
        });
        assert_eq!(taken, Some(piece()));
        assert_eq!(wanted(), None);
        assert_eq!(take(MIN_BYTES - 1, || panic!("nobody is asked")), None);
    }

    #[test]
    fn the_same_memory_is_offered_or_none() {
        let piece = piece();
        let kept = offer(&piece, offered).unwrap();
        assert_eq!(kept.as_ptr(), piece.as_ptr());
        assert_eq!(offer(&piece, |bytes| offered(&bytes[1..])), None);
        let copy = piece.to_vec();
        assert_eq!(offer(&piece, |_| offered(&copy)), None);
        assert_eq!(offer(&piece.slice(1..), offered), None, "too short");
        assert_eq!(offered(&piece), None);
    }

    #[test]
    fn a_panic_leaves_nothing_behind() {
        let _ = std::panic::catch_unwind(|| {
            take(MIN_BYTES, || {
                give(piece());
                panic!("as intended");
            })
        });
        assert_eq!(wanted(), None);
        assert_eq!(PIECE.take(), None);
    }
}
