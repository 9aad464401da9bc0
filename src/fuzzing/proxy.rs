//! The header of the PROXY protocol.

use futures::{executor::block_on, io::Cursor};

use crate::transport::proxy::{MAX_HEADER_BYTES, Source, read};

/// Reads `bytes` as the start of a connection. No more than the longest header is taken, and of a
/// good one not a byte behind it; an IPv4 address is given as one.
pub fn proxy(bytes: &[u8]) {
    let mut stream = Cursor::new(bytes);
    let result = block_on(read(&mut stream));
    let taken = usize::try_from(stream.position()).unwrap_or(usize::MAX);
    assert!(taken <= MAX_HEADER_BYTES, "{taken} bytes");
    let Ok(source) = result else { return };
    let Some([.., high, low]) = bytes.first_chunk::<16>() else {
        panic!("a header of {} bytes", bytes.len());
    };
    assert_eq!(taken, 16 + usize::from(u16::from_be_bytes([*high, *low])));
    if let Source::Client(client) = source {
        assert_eq!(client.ip(), client.ip().to_canonical());
    }
}
