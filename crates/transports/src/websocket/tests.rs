//! Frames are split, and their data is unchanged.

use std::iter;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, executor::block_on};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    buffered,
    memory_socket::{MemorySocket, memory_sockets, pattern, repeated, steps},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";

/// A frame that a client sends.
#[derive(Clone, Debug)]
struct Frame {
    first: u8,
    mask: Option<[u8; MASK_BYTES]>,
    payload: Vec<u8>,
}

impl Frame {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Header::message(self.payload.len() as u64, self.mask)
            .bytes()
            .to_vec();
        bytes[0] = self.first;
        bytes.extend(masked(&self.payload, self.mask));
        bytes
    }

    fn is_control(&self) -> bool {
        self.first & 0x08 != 0
    }
}

fn masked(payload: &[u8], mask: Option<[u8; MASK_BYTES]>) -> Vec<u8> {
    let mask = mask.unwrap_or_default();
    let masks = mask.iter().cycle();
    payload.iter().zip(masks).map(|(a, b)| a ^ b).collect()
}

fn frame() -> impl Strategy<Value = Frame> {
    let length = prop_oneof![
        0..130_usize,
        0..70_000_usize,
        Just(MAX_FRAME_BYTES),
        0..200_000_usize
    ];
    let first = prop_oneof![
        Just(0x82_u8),
        Just(0x81),
        Just(0x02),
        Just(0x00),
        Just(0x80)
    ];
    let data = (first, any::<Option<[u8; 4]>>(), length).prop_map(|(first, mask, length)| Frame {
        first,
        mask,
        payload: pattern(length),
    });
    let control =
        (0x88..=0x8a_u8, any::<[u8; 4]>(), 0..=125_usize).prop_map(|(first, mask, length)| Frame {
            first,
            mask: Some(mask),
            payload: pattern(length),
        });
    prop_oneof![4 => data, 1 => control]
}

/// All bytes that are read from `splitter` until the end, by reads of these sizes.
fn read_all(splitter: &mut FrameSplitter<MemorySocket>, sizes: &[usize]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 200_000];
    for size in sizes.iter().cycle().filter(|size| **size > 0) {
        let read = block_on(splitter.read(&mut buffer[..*size])).unwrap();
        if read == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..read]);
    }
    all
}

/// The frames in `bytes`.
fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let mut header = Header::default();
        header.push(&bytes[..2]);
        let expected = header.expected();
        header.push(&bytes[2..expected]);
        let end = expected + usize::try_from(header.payload()).unwrap();
        frames.push(Frame {
            first: bytes[0],
            mask: header.mask(),
            payload: masked(&bytes[expected..end], header.mask()),
        });
        bytes = &bytes[end..];
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn frames_are_split_and_data_is_unchanged(
        frames in vec(frame(), 0..6),
        reads in steps(),
        socket_reads in steps(),
    ) {
        let (near, far) = memory_sockets();
        near.writes.put(REQUEST);
        let mut splitter = FrameSplitter::new(far);
        let mut request = vec![0; REQUEST.len()];
        block_on(splitter.read_exact(&mut request)).unwrap();
        prop_assert_eq!(&request, REQUEST);
        for frame in &frames {
            near.writes.put(&frame.encode());
        }
        near.writes.close();
        splitter.io.read_sizes = repeated(socket_reads);
        let (got, change) = buffered::collect_changes(|| read_all(&mut splitter, &reads));
        prop_assert!(u64::try_from(change).unwrap() <= 2 * MAX_FRAME_BYTES as u64);

        let parts = parse(&got);
        let data = |frames: &[Frame]| -> Vec<u8> {
            let data = frames.iter().filter(|frame| !frame.is_control());
            data.flat_map(|frame| frame.payload.clone()).collect()
        };
        prop_assert!(data(&parts) == data(&frames));
        for part in &parts {
            prop_assert!(part.payload.len() <= MAX_FRAME_BYTES);
            prop_assert!(part.is_control() || part.first == FIN | BINARY);
        }
        let control = |frames: &[Frame]| -> Vec<Vec<u8>> {
            frames.iter().filter(|frame| frame.is_control()).map(Frame::encode).collect()
        };
        prop_assert_eq!(control(&parts), control(&frames));
    }

    #[test]
    fn arbitrary_bytes_are_read_to_the_end(bytes in vec(any::<u8>(), 0..2000), reads in steps()) {
        let (near, far) = memory_sockets();
        near.writes.put(REQUEST);
        let mut splitter = FrameSplitter::new(far);
        block_on(splitter.read_exact(&mut vec![0; REQUEST.len()])).unwrap();
        near.writes.put(&bytes);
        near.writes.close();
        read_all(&mut splitter, &reads);
    }
}

#[test]
fn frame_is_charged_until_it_is_written() {
    let (_near, far) = memory_sockets();
    far.reads.put(REQUEST);
    let mut splitter = FrameSplitter::new(far);
    block_on(splitter.read_exact(&mut vec![0; REQUEST.len()])).unwrap();
    block_on(splitter.write_all(RESPONSE)).unwrap();
    // The socket accepts the header and a part of the payload, and then blocks.
    splitter.io.write_sizes = Box::new([10, 1000].into_iter().chain(iter::repeat(0)));
    let payload = pattern(70_000);
    let frame = [Header::message(70_000, None).bytes(), &payload].concat();
    let ((), change) = buffered::collect_changes(|| {
        block_on(splitter.write_all(&frame[..10])).unwrap();
        assert!(splitter.write_all(&frame[10..]).now_or_never().is_none());
    });
    assert_eq!(change, 70_000);
    splitter.io.write_sizes = Box::new(iter::repeat(usize::MAX));
    let (written, change) =
        buffered::collect_changes(|| block_on(splitter.write_all(&frame[1010..])));
    written.unwrap();
    assert_eq!(change, -70_000);
}

#[test]
fn announced_frame_is_charged_as_one_part() {
    let (near, far) = memory_sockets();
    near.writes.put(REQUEST);
    let mut splitter = FrameSplitter::new(far);
    block_on(splitter.read_exact(&mut vec![0; REQUEST.len()])).unwrap();
    near.writes
        .put(Header::message(200_000_000, Some([1; 4])).bytes());
    let mut buffer = [0; 100];
    let (read, change) =
        buffered::collect_changes(|| block_on(splitter.read(&mut buffer)).unwrap());
    let frame = Header::message(MAX_FRAME_BYTES as u64, Some([1; 4]));
    assert_eq!(&buffer[..read], frame.bytes());
    assert_eq!(change, i64::try_from(MAX_FRAME_BYTES).unwrap());
}

#[test]
fn data_before_the_response_is_rejected() {
    for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
        let (near, far) = memory_sockets();
        near.writes
            .put(format!("GET / HTTP/1.1\r\nHost: relay{end}x").as_bytes());
        let error = block_on(FrameSplitter::new(far).read(&mut [0; 100])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{end:?}");
    }
}
