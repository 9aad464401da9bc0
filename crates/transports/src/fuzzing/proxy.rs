//! The parser of PROXY protocol headers.

use futures::{executor::block_on, io::Cursor};

use crate::proxy::{MAX_HEADER_BYTES, Source, read};

/// Parses `bytes` as the start of a connection. It reads at most the length of the longest header, and
/// exactly the length of a valid one; IPv4-mapped addresses are converted to IPv4.
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
