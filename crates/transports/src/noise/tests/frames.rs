//! Frames: fragmented, truncated, modified.

use std::io::ErrorKind;

use futures::{FutureExt as _, future::join};
use proptest::{collection::vec, prelude::*};

use super::*;

/// The maximum memory of a stream for reading and for writing: an incomplete frame and an unread one,
/// each in a buffer that doubles as it grows.
const MAX_HELD_BY_READS: usize = 4 * MAX_FRAME_BYTES;
const MAX_HELD_BY_WRITES: usize = 2 * (encryption::MAX_BATCH_BYTES + MAX_FRAME_BYTES);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn data_is_the_same_in_any_fragmentation(
        writes in vec((prop_oneof![0..100_usize, 0..200_000_usize], any::<bool>()), 0..8),
        reads in steps(),
        socket_reads in steps(),
        socket_writes in steps(),
    ) {
        let (mut near, mut far) = streams();
        near.socket_mut().write_sizes = repeated(socket_writes);
        far.socket_mut().read_sizes = repeated(socket_reads);
        let wanted = pattern(writes.iter().map(|(length, _)| length).sum());
        let writing = write_in_parts(
            &mut near,
            &wanted,
            writes,
            NoiseStream::held_bytes,
            MAX_HELD_BY_WRITES,
        );
        let reading = read_in_parts(&mut far, reads, NoiseStream::held_bytes, MAX_HELD_BY_READS);
        let ((), got) = block_on(join(writing, reading));
        prop_assert!(got == wanted);
        prop_assert_eq!(near.held_bytes(), 0);
    }

    /// Neither a modified frame nor what follows it is read.
    #[test]
    fn modified_frame_is_rejected(at in 0..3 * 1018_usize, bit in 0..8, room in 1..4000_usize) {
        let (mut near, mut far) = streams();
        let sent = pattern(3000);
        let frames = far.socket_mut().reads.clone();
        for part in sent.chunks(1000) {
            block_on(near.write_all(part)).unwrap();
        }
        block_on(near.close()).unwrap();
        let mut bytes = frames.take();
        prop_assert_eq!(bytes.len(), 3 * 1018);
        bytes[at] ^= 1_u8 << bit;
        frames.put(&bytes);
        let mut buffer = vec![0; room];
        let mut got = Vec::new();
        let error = loop {
            match block_on(far.read(&mut buffer)) {
                Ok(read) => got.extend_from_slice(&buffer[..read]),
                Err(error) => break error.kind(),
            }
            prop_assert!(got.len() <= 3000);
        };
        prop_assert_eq!(&got, &sent[..at / 1018 * 1000]);
        if at % 1018 >= LENGTH_BYTES {
            prop_assert_eq!(error, ErrorKind::InvalidData);
            let again = block_on(far.read(&mut buffer)).unwrap_err();
            prop_assert_eq!(again.kind(), ErrorKind::InvalidData);
        }
    }

    #[test]
    fn end_within_a_frame_is_unexpected(length in 0..=2 * 1018_usize) {
        let (mut near, mut far) = streams();
        let frames = far.socket_mut().reads.clone();
        for part in pattern(2000).chunks(1000) {
            block_on(near.write_all(part)).unwrap();
        }
        block_on(near.close()).unwrap();
        let bytes = frames.take();
        frames.put(&bytes[..length]);
        let mut got = Vec::new();
        let end = block_on(far.read_to_end(&mut got));
        prop_assert_eq!(got, &pattern(2000)[..length / 1018 * 1000]);
        prop_assert_eq!(
            end.map_err(|error| error.kind()).err(),
            (length % 1018 != 0).then_some(ErrorKind::UnexpectedEof)
        );
    }

    #[test]
    fn arbitrary_bytes_are_rejected(bytes in vec(any::<u8>(), 0..200_000), room in 1..100_000_usize) {
        let (_near, mut far) = streams();
        let frames = far.socket_mut().reads.clone();
        frames.put(&bytes);
        frames.close();
        let read = block_on(far.read(&mut vec![0; room]));
        prop_assert_eq!(read.is_ok(), bytes.is_empty());
    }
}

#[test]
fn empty_frames_are_skipped() {
    let (mut near, mut far) = streams();
    let frames = near.socket_mut().writes.clone();
    for _ in 0..10 {
        frames.put(&near.frame(b""));
    }
    frames.put(&near.frame(b"end"));
    let mut buffer = [0; 8];
    assert_eq!(block_on(far.read(&mut buffer)).unwrap(), 3);
    frames.put(&near.frame(b""));
    assert!(far.read(&mut buffer).now_or_never().is_none());
}

#[test]
fn message_shorter_than_its_tag_is_rejected() {
    let (_near, mut far) = streams();
    far.socket_mut().reads.put(&[0, 15]);
    far.socket_mut().reads.put(&[0; 15]);
    let error = block_on(far.read(&mut [0; 100])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

#[test]
fn short_writes_share_a_system_call() {
    let (mut near, _far) = streams();
    let frames = near.socket_mut().writes.clone();
    let before = frames.state().writes;
    for _ in 0..10 {
        block_on(near.write_all(b"a short one")).unwrap();
    }
    assert_eq!(frames.state().writes, before);
    block_on(near.flush()).unwrap();
    assert_eq!(frames.state().writes, before + 1);
    assert_eq!(near.held_bytes(), 0);
}

#[test]
fn long_write_is_one_system_call() {
    let (mut near, _far) = streams();
    let frames = near.socket_mut().writes.clone();
    let before = frames.state().writes;
    // A muxer's longest write.
    block_on(near.write_all(&pattern(64 * 1024 + 12))).unwrap();
    assert_eq!(frames.state().writes, before + 1);
    assert_eq!(near.held_bytes(), 0);
}

/// Only the received part of an incomplete frame is held.
#[test]
fn only_received_bytes_are_held() {
    let (mut near, mut far) = streams();
    let frames = far.socket_mut().reads.clone();
    block_on(near.write_all(&pattern(60_000))).unwrap();
    block_on(near.flush()).unwrap();
    let bytes = frames.take();
    let mut buffer = vec![0; 64 * 1024];
    assert!(far.read(&mut buffer).now_or_never().is_none());
    assert_eq!(far.held_bytes(), 0);
    let (begin, end) = bytes.split_at(1000);
    frames.put(begin);
    assert!(far.read(&mut buffer).now_or_never().is_none());
    assert!((1000..2048).contains(&far.held_bytes()));
    frames.put(end);
    assert_eq!(block_on(far.read(&mut buffer)).unwrap(), 60_000);
    assert!(far.read(&mut buffer).now_or_never().is_none());
    assert_eq!(far.held_bytes(), 0);
    // A reader with a small buffer.
    frames.put(&near.frame(&pattern(50_000)));
    for byte in pattern(50_000) {
        assert_eq!(block_on(far.read(&mut buffer[..1])).unwrap(), 1);
        assert_eq!(buffer[0], byte);
    }
    assert!(far.read(&mut buffer).now_or_never().is_none());
    assert_eq!(far.held_bytes(), 0);
}

#[test]
fn blocked_socket_blocks_the_writer() {
    let (mut near, _far) = streams();
    near.socket_mut().write_sizes = Box::new(iter::repeat(0));
    let mut taken = 0;
    let chunk = pattern(64 * 1024);
    while let Some(written) = near.write(&chunk).now_or_never() {
        taken += written.unwrap();
        assert!(taken < MAX_HELD_BY_WRITES);
    }
    assert!(near.flush().now_or_never().is_none());
    assert!(near.close().now_or_never().is_none());
    assert!(near.held_bytes() <= MAX_HELD_BY_WRITES);
}
