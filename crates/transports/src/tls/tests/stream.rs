//! Records: fragmented, truncated, modified.

use std::{io::ErrorKind, iter};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, executor::block_on, future::join,
};
use futures_rustls::client;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::memory_socket::{
    MemorySocket, memory_sockets, pattern, read_in_parts, repeated, steps, write_in_parts,
};

/// The length of a record of 1,000 bytes: its header, the data, the content type and the tag.
const RECORD_BYTES: usize = 5 + 1000 + 1 + 16;
/// The maximum memory for reading: the plaintext of one read of the socket, and a part of a record.
const MAX_HELD_BY_READS: usize = 2 * 96 * 1024;
/// The maximum memory for writing: one encrypted write.
const MAX_HELD_BY_WRITES: usize = 2 * 72 * 1024;

/// Both ends of a stream: the client's, by libp2p's TLS, and the relay's.
fn streams() -> (
    client::TlsStream<MemorySocket>,
    TlsServerStream<MemorySocket>,
) {
    let (near, far) = memory_sockets();
    let server =
        Arc::new(server(&Keypair::generate_ed25519(), ConnectionGater::unlimited()).unwrap());
    let client = libp2p::tls::make_client_config(&Keypair::generate_ed25519(), None).unwrap();
    let name = ServerName::try_from("libp2p.invalid").unwrap();
    let connect = TlsConnector::from(Arc::new(client)).connect(name, near);
    let (connected, accepted) = block_on(join(connect, TlsServerStream::accept(server, far)));
    (connected.unwrap(), accepted.unwrap())
}

fn set_transfer_sizes(
    stream: &mut TlsServerStream<MemorySocket>,
    reads: Vec<usize>,
    writes: Vec<usize>,
) {
    stream.socket_mut().read_sizes = repeated(reads);
    stream.socket_mut().write_sizes = repeated(writes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn data_is_read_in_any_fragmentation(
        length in prop_oneof![0..100_usize, 0..300_000_usize],
        reads in steps(),
        socket_reads in steps(),
    ) {
        let (mut near, mut far) = streams();
        set_transfer_sizes(&mut far, socket_reads, vec![usize::MAX]);
        let wanted = pattern(length);
        let writing = async {
            near.write_all(&wanted).await.unwrap();
            near.close().await.unwrap();
        };
        let reading = read_in_parts(&mut far, reads, TlsServerStream::held_bytes, MAX_HELD_BY_READS);
        let ((), got) = block_on(join(writing, reading));
        prop_assert!(got == wanted);
    }

    #[test]
    fn data_is_written_in_any_fragmentation(
        writes in vec((prop_oneof![0..100_usize, 0..200_000_usize], any::<bool>()), 0..6),
        socket_writes in steps(),
    ) {
        let (mut near, mut far) = streams();
        set_transfer_sizes(&mut far, vec![usize::MAX], socket_writes);
        let wanted = pattern(writes.iter().map(|(length, _)| length).sum());
        let writing = write_in_parts(
            &mut far,
            &wanted,
            writes,
            TlsServerStream::held_bytes,
            MAX_HELD_BY_WRITES,
        );
        let mut got = Vec::new();
        let reading = async { near.read_to_end(&mut got).await.unwrap() };
        block_on(join(writing, reading));
        prop_assert!(got == wanted);
    }

    /// Neither a modified record nor what follows it is read.
    #[test]
    fn modified_record_is_rejected(at in 0..3 * RECORD_BYTES, bit in 0..8, room in 1..4000_usize) {
        let (mut near, mut far) = streams();
        let records = far.socket_mut().reads.clone();
        let sent = pattern(3000);
        for part in sent.chunks(1000) {
            block_on(near.write_all(part)).unwrap();
        }
        let mut bytes = records.take();
        prop_assert_eq!(bytes.len(), 3 * RECORD_BYTES);
        bytes[at] ^= 1_u8 << bit;
        records.put(&bytes);
        records.close();
        let mut buffer = vec![0; room];
        let mut got = Vec::new();
        while let Ok(read @ 1..) = block_on(far.read(&mut buffer)) {
            got.extend_from_slice(&buffer[..read]);
        }
        // The type and the version in a record header have no meaning in TLS 1.3.
        let is_meaningless = (0..3).contains(&(at % RECORD_BYTES));
        let whole = if is_meaningless { 3000 } else { at / RECORD_BYTES * 1000 };
        prop_assert!(got.len() == whole || is_meaningless && got.len() <= whole, "{}", got.len());
        prop_assert!(sent.starts_with(&got));
        for _ in 0..2 {
            prop_assert!(block_on(far.read(&mut buffer)).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_are_rejected(bytes in vec(any::<u8>(), 0..100_000), room in 1..100_000_usize) {
        let (_near, mut far) = streams();
        let records = far.socket_mut().reads.clone();
        records.put(&bytes);
        records.close();
        let error = block_on(far.read(&mut vec![0; room])).unwrap_err();
        prop_assert!([ErrorKind::InvalidData, ErrorKind::UnexpectedEof].contains(&error.kind()));
        // Writing does not panic, whatever message is incomplete.
        let _ = far.write(b"answer").now_or_never();
        let _ = far.close().now_or_never();
    }

    #[test]
    fn arbitrary_handshakes_are_rejected(bytes in vec(any::<u8>(), 0..1000), kind in 20..24_u8) {
        let (near, far) = memory_sockets();
        let server = Arc::new(server(&Keypair::generate_ed25519(), ConnectionGater::unlimited()).unwrap());
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        near.writes.put(&[kind, 3, 1, length[0], length[1]]);
        near.writes.put(&bytes);
        near.writes.close();
        prop_assert!(block_on(TlsServerStream::accept(server, far)).is_err());
    }
}

/// A key update that arrives in two parts: writes continue in between, and no data is lost.
#[test]
fn key_update_is_handled_at_any_time() {
    let (mut near, mut far) = streams();
    let records = far.socket_mut().reads.clone();
    let mut buffer = [0; 100];
    for cut in 1..30 {
        near.get_mut().1.refresh_traffic_keys().unwrap();
        block_on(near.write_all(b"question")).unwrap();
        block_on(near.flush()).unwrap();
        let bytes = records.take();
        records.put(&bytes[..cut]);
        assert!(far.read(&mut buffer).now_or_never().is_none());
        block_on(far.write_all(b"early answer")).unwrap();
        block_on(far.flush()).unwrap();
        records.put(&bytes[cut..]);
        assert_eq!(block_on(far.read(&mut buffer)).unwrap(), 8);
        block_on(far.write_all(b"late answer")).unwrap();
        block_on(far.flush()).unwrap();
        let mut answers = [0; 23];
        block_on(near.read_exact(&mut answers)).unwrap();
        assert_eq!(&answers, b"early answerlate answer");
    }
}

/// A handshake message that never ends.
#[test]
fn handshake_messages_are_bounded() {
    let (near, mut far) = memory_sockets();
    let server =
        Arc::new(server(&Keypair::generate_ed25519(), ConnectionGater::unlimited()).unwrap());
    far.read_sizes = repeated(vec![5000]);
    near.writes.put(&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff]);
    near.writes.put(&[0; 0x4000 - 4]);
    for _ in 0..3 {
        near.writes.put(&[22, 3, 1, 0x40, 0]);
        near.writes.put(&[0; 0x4000]);
    }
    let error = block_on(TlsServerStream::accept(server, far)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn data_is_complete_only_after_close_notify() {
    for is_closed in [true, false] {
        let (mut near, mut far) = streams();
        block_on(near.write_all(b"data")).unwrap();
        block_on(near.flush()).unwrap();
        if is_closed {
            block_on(near.close()).unwrap();
        }
        drop(near);
        let mut got = Vec::new();
        let end = block_on(far.read_to_end(&mut got));
        assert_eq!(got, b"data");
        let cut = (!is_closed).then_some(ErrorKind::UnexpectedEof);
        assert_eq!(end.map_err(|error| error.kind()).err(), cut);
    }
}

#[test]
fn writes_are_gathered_into_system_calls() {
    let (_near, mut far) = streams();
    let records = far.socket_mut().writes.clone();
    let before = records.state().writes;
    for _ in 0..10 {
        block_on(far.write_all(b"a short one")).unwrap();
    }
    assert_eq!(records.state().writes, before);
    block_on(far.flush()).unwrap();
    assert_eq!(records.state().writes, before + 1);
    // A muxer's longest write.
    block_on(far.write_all(&pattern(64 * 1024 + 12))).unwrap();
    assert_eq!(records.state().writes, before + 2);
    assert_eq!(far.held_bytes(), 0);
}

/// Only the received part of an incomplete record is held.
#[test]
fn only_received_bytes_are_held() {
    let (mut near, mut far) = streams();
    assert_eq!(far.held_bytes(), 0);
    let records = far.socket_mut().reads.clone();
    block_on(near.write_all(&pattern(16_000))).unwrap();
    block_on(near.flush()).unwrap();
    let bytes = records.take();
    let (begin, end) = bytes.split_at(1000);
    let mut buffer = vec![0; 64 * 1024];
    records.put(begin);
    assert!(far.read(&mut buffer).now_or_never().is_none());
    assert!((1000..2048).contains(&far.held_bytes()));
    records.put(end);
    assert_eq!(block_on(far.read(&mut buffer)).unwrap(), 16_000);
    assert!(far.read(&mut buffer).now_or_never().is_none());
    assert_eq!(far.held_bytes(), 0);
}

#[test]
fn blocked_socket_blocks_the_writer() {
    let (_near, mut far) = streams();
    far.socket_mut().write_sizes = Box::new(iter::repeat(0));
    let mut taken = 0;
    let chunk = pattern(64 * 1024);
    while let Some(written) = far.write(&chunk).now_or_never() {
        taken += written.unwrap();
        assert!(taken < MAX_HELD_BY_WRITES);
    }
    assert!(far.flush().now_or_never().is_none());
    assert!(far.close().now_or_never().is_none());
    assert!(far.held_bytes() <= MAX_HELD_BY_WRITES);
}
