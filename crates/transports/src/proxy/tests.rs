use std::net::{Ipv6Addr, SocketAddr};

use futures::{AsyncReadExt, FutureExt, executor::block_on};
use ppp::v2::{Addresses, Builder, Command, Protocol, Type, Version};
use proptest::{collection::vec, prelude::*};

use super::{
    super::memory_socket::{Pipe, memory_sockets, repeated, steps},
    *,
};

/// A header of a connection from `client`, with an extension of `extra` bytes.
fn header(command: Command, client: SocketAddr, extra: usize) -> Vec<u8> {
    let relay = SocketAddr::new(client.ip(), 9000);
    Builder::with_addresses(
        Version::Two | command,
        Protocol::Stream,
        Addresses::from((client, relay)),
    )
    .write_tlv(Type::NoOp, &vec![7; extra])
    .unwrap()
    .build()
    .unwrap()
}

fn proxied(client: &str) -> Vec<u8> {
    header(Command::Proxy, client.parse().unwrap(), 0)
}

/// The result of reading `bytes`, followed by the end of the connection, in chunks of these sizes, and
/// the bytes that are left.
fn read_in(steps: Vec<usize>, bytes: &[u8]) -> (Result<Source, String>, Vec<u8>) {
    let (mut near, far) = memory_sockets();
    near.read_sizes = repeated(steps);
    let pipe: Pipe = near.reads.clone();
    pipe.put(bytes);
    drop(far);
    block_on(async {
        let source = read(&mut near).await.map_err(|error| error.to_string());
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (source, rest)
    })
}

fn read_at_once(bytes: &[u8]) -> Result<Source, String> {
    read_in(vec![usize::MAX], bytes).0
}

fn client(address: &str) -> Source {
    Source::Client(address.parse().unwrap())
}

#[test]
fn client_is_the_source_address_of_the_header() {
    for address in ["203.0.113.7:4001", "[2001:db8::7]:4001"] {
        assert_eq!(read_at_once(&proxied(address)), Ok(client(address)));
    }
    let mapped = proxied("[::ffff:203.0.113.7]:1");
    assert_eq!(read_at_once(&mapped), Ok(client("203.0.113.7:1")));
    let itself = header(Command::Local, "203.0.113.7:1".parse().unwrap(), 0);
    assert_eq!(read_at_once(&itself), Ok(Source::Proxy));
}

/// According to the specification, byte by byte.
#[test]
fn hand_written_header_is_parsed() {
    let bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\xc6\x33\x64\x01\x0f\xa1\x23\x28";
    assert_eq!(read_at_once(bytes), Ok(client("203.0.113.7:4001")));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(read_at_once(local), Ok(Source::Proxy));
}

#[test]
fn other_bytes_are_rejected() {
    let error = |bytes: &[u8]| read_at_once(bytes).unwrap_err();
    assert!(error(b"").contains("ended before"));
    assert!(error(b"\r\n\r\n").contains("incomplete"));
    assert!(error(b"PROXY TCP4 203.0.113.7 198.51.100.1 4001 9000\r\n").contains("not a PROXY"));
    assert!(error(b"\x13/multistream/1.0.0\n").contains("not a PROXY"));
    let mut bytes = proxied("203.0.113.7:4001");
    bytes[12] = 0x31;
    assert!(error(&bytes).contains("not a PROXY"), "a later version");
    bytes[12] = 0x21;
    for (family, name) in [(0x12, "UDP"), (0x00, "unknown")] {
        bytes[13] = family;
        assert!(error(&bytes).contains("not of a TCP"), "{name}");
    }
    bytes[13] = 0x21;
    assert!(error(&bytes).contains("not a PROXY"), "too short for IPv6");
}

#[test]
fn header_length_is_bounded() {
    // Addresses, and the type and length of the extension.
    let limit = MAX_HEADER_BYTES - FIXED_BYTES - 12 - 3;
    let with = |extra| header(Command::Proxy, "203.0.113.7:1".parse().unwrap(), extra);
    assert_eq!(with(limit).len(), MAX_HEADER_BYTES);
    assert_eq!(read_at_once(&with(limit)), Ok(client("203.0.113.7:1")));
    assert!(
        read_at_once(&with(limit + 1))
            .unwrap_err()
            .contains("1025 bytes")
    );
}

/// A header with an excessive announced length is rejected before its rest arrives.
#[test]
fn oversized_header_is_rejected_unread() {
    let (mut near, far) = memory_sockets();
    near.reads.put(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff");
    let source = read(&mut near).now_or_never();
    assert!(matches!(source, Some(Err(Error::TooLong(65_551)))));
    drop(far);
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    (any::<u128>(), any::<bool>(), any::<u16>()).prop_map(|(bits, is_v4, port)| {
        let v6 = Ipv6Addr::from_bits(bits);
        let v4 = std::net::Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap());
        SocketAddr::new(if is_v4 { v4.into() } else { v6.into() }, port)
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_parsed_or_rejected(steps in steps(), bytes in vec(any::<u8>(), 0..200)) {
        let (_, rest) = read_in(steps, &bytes);
        prop_assert!(bytes.ends_with(&rest));
    }

    /// With a valid signature, so that the rest of the parser is reached.
    #[test]
    fn arbitrary_headers_are_parsed_or_rejected(
        steps in steps(),
        kind in vec(any::<u8>(), 2..3),
        length in 0..400_u16,
        bytes in vec(any::<u8>(), 0..400),
    ) {
        let length = length.to_be_bytes();
        let whole = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &kind, &length, &bytes].concat();
        let pieces = read_in(steps, &whole);
        prop_assert_eq!(&pieces, &read_in(vec![usize::MAX], &whole));
        prop_assert!(whole.ends_with(&pieces.1));
    }

    #[test]
    fn header_is_read_and_nothing_beyond(
        steps in steps(),
        from in addresses(),
        is_local in any::<bool>(),
        extra in 0..900_usize,
        rest in vec(any::<u8>(), 0..50),
    ) {
        let command = if is_local { Command::Local } else { Command::Proxy };
        let bytes = [header(command, from, extra), rest.clone()].concat();
        let (source, left) = read_in(steps, &bytes);
        let ip = from.ip().to_canonical();
        let wanted = if is_local {
            Source::Proxy
        } else {
            Source::Client(SocketAddr::new(ip, from.port()))
        };
        prop_assert_eq!(source, Ok(wanted));
        prop_assert_eq!(left, rest);
    }

    #[test]
    fn truncated_header_is_rejected(cut in 1..28_usize) {
        let bytes = proxied("203.0.113.7:4001");
        prop_assert!(read_at_once(&bytes[..cut]).is_err());
    }
}
