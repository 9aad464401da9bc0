//! Zero-copy transfer of byte chunks from one stream to another.
//!
//! A circuit gets its streams from libp2p as boxed `AsyncRead` and `AsyncWrite` objects, whose
//! methods only take slices. A reference-counted chunk therefore takes a side channel: a
//! thread-local slot that is set for the duration of one poll call. Streams that support it use
//! the slot; all others, and wrappers that transform the bytes, ignore it, and the bytes are
//! copied as usual.

use std::cell::{Cell, RefCell};

use bytes::Bytes;

/// The shortest chunk that is passed, in bytes. Copying a shorter one is cheaper than keeping it as
/// a separate buffer.
pub const MIN_BYTES: usize = 4096;

thread_local! {
    /// The maximum length of the chunk that is requested at the moment; 0 without a request.
    static REQUESTED_LEN: Cell<usize> = const { Cell::new(0) };
    /// The chunk in transit.
    static CHUNK: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Clears the slot at the end of a call, also when the call panics.
struct ResetOnDrop;

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        REQUESTED_LEN.set(0);
        CHUNK.take();
    }
}

/// Requests a chunk of at most `max` bytes from the stream that `read` polls with an empty buffer.
///
/// Returns `None` without calling `read` if `max` is less than [`MIN_BYTES`]. After `None` the
/// caller has to read into a buffer: the stream has not necessarily registered a waker.
pub fn request_chunk<R>(max: usize, read: impl FnOnce() -> R) -> Option<Bytes> {
    if max < MIN_BYTES {
        return None;
    }
    let _reset = ResetOnDrop;
    REQUESTED_LEN.set(max);
    read();
    CHUNK.take()
}

/// For a stream that is polled with an empty buffer: the maximum length of the requested chunk in
/// bytes, or `None` if no chunk is requested.
pub fn requested_len() -> Option<usize> {
    Some(REQUESTED_LEN.get()).filter(|&max| max > 0)
}

/// For a stream that is polled: answers a [request](requested_len) with `chunk`.
pub fn provide_chunk(chunk: Bytes) {
    CHUNK.set(Some(chunk));
}

/// Passes the bytes of `chunk` to `write`, in which a stream may [accept](accept_chunk) the chunk
/// itself instead of copying the bytes.
pub fn with_chunk<R>(chunk: &Bytes, write: impl FnOnce(&[u8]) -> R) -> R {
    let _reset = ResetOnDrop;
    if chunk.len() >= MIN_BYTES {
        CHUNK.set(Some(chunk.clone()));
    }
    write(chunk)
}

/// For a stream to which `bytes` are written: the chunk that consists of exactly these bytes, if
/// the caller passed one.
pub fn accept_chunk(bytes: &[u8]) -> Option<Bytes> {
    // Compared by address and length: a wrapper may write other bytes in between.
    CHUNK.take().filter(|chunk| {
        let chunk: &[u8] = chunk;
        std::ptr::eq(chunk, bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Bytes {
        Bytes::from(vec![7; MIN_BYTES])
    }

    #[test]
    fn chunk_is_provided_during_a_request() {
        assert_eq!(requested_len(), None);
        let provided = request_chunk(MIN_BYTES, || {
            assert_eq!(requested_len(), Some(MIN_BYTES));
            provide_chunk(chunk());
        });
        assert_eq!(provided, Some(chunk()));
        assert_eq!(requested_len(), None);
        let short = request_chunk(MIN_BYTES - 1, || panic!("the stream is not polled"));
        assert_eq!(short, None);
    }

    #[test]
    fn only_the_same_memory_is_accepted() {
        let chunk = chunk();
        let accepted = with_chunk(&chunk, accept_chunk).unwrap();
        assert_eq!(accepted.as_ptr(), chunk.as_ptr());
        assert_eq!(with_chunk(&chunk, |bytes| accept_chunk(&bytes[1..])), None);
        let copy = chunk.to_vec();
        assert_eq!(with_chunk(&chunk, |_| accept_chunk(&copy)), None);
        assert_eq!(
            with_chunk(&chunk.slice(1..), accept_chunk),
            None,
            "too short"
        );
        assert_eq!(accept_chunk(&chunk), None);
    }

    #[test]
    fn panic_clears_the_slot() {
        let _ = std::panic::catch_unwind(|| {
            request_chunk(MIN_BYTES, || {
                provide_chunk(chunk());
                panic!("as intended");
            })
        });
        assert_eq!(requested_len(), None);
        assert_eq!(CHUNK.take(), None);
    }
}
