//! Model test of two sessions without I/O: the guarantees of streams hold in every interleaving.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::task::noop_waker;
use proptest::prelude::*;
use stream_io::chunk_passing;

use super::{
    super::{session::Session, stream_state::StreamState},
    *,
};

/// An operation on one side of the connection.
#[derive(Debug, Clone, Copy)]
enum Step {
    Open,
    Accept,
    Write(usize, usize),
    Read(usize, usize),
    Close(usize),
    Drop(usize),
    /// The other side receives up to this number of bytes.
    Deliver(usize),
}

fn step() -> impl Strategy<Value = (bool, Step)> {
    let size = prop_oneof![1..100_usize, 1..400_000_usize];
    let step = prop_oneof![
        2 => Just(Step::Open),
        3 => Just(Step::Accept),
        8 => (0..4_usize, size.clone()).prop_map(|(stream, n)| Step::Write(stream, n)),
        8 => (0..4_usize, size.clone()).prop_map(|(stream, n)| Step::Read(stream, n)),
        2 => (0..4_usize).prop_map(Step::Close),
        1 => (0..4_usize).prop_map(Step::Drop),
        10 => size.prop_map(Step::Deliver),
    ];
    (any::<bool>(), step)
}

/// The model of one direction of a stream: the bytes that were written and read.
#[derive(Debug, Default)]
struct Record {
    written: usize,
    closed: bool,
    read: usize,
    eof: bool,
}

/// One side of the connection.
struct Side {
    session: Session,
    /// The handles of its streams, in the order in which they were opened or accepted.
    streams: Vec<u32>,
    /// Bytes that were taken from its send queue and are not received by the other side.
    wire: Vec<u8>,
}

impl Side {
    fn new(role: Role) -> Self {
        let config = Config {
            max_send_queue: 50_000,
            max_frame_size: 20_000,
            ..Config::default()
        };
        Self {
            session: Session::new(config, role),
            streams: Vec::new(),
            wire: Vec::new(),
        }
    }

    /// Asserts that the charge equals the memory that is held.
    fn assert_charged(&mut self) {
        self.session.update_charge();
        let streams = self.session.streams.values();
        let unread: usize = streams.map(StreamState::held_bytes).sum();
        let held = unread + self.session.send_queue.held_bytes();
        assert!(held >= self.session.send_queue.pending());
        assert_eq!(self.session.memory.held(), held as u64);
    }

    fn stream(&self, index: usize) -> Option<u32> {
        self.streams.get(index % self.streams.len().max(1)).copied()
    }
}

/// The byte at a position of a direction, so that the data need not be stored for comparison.
fn byte(stream: u32, position: usize) -> u8 {
    u8::try_from((position / 251 + position + stream as usize) % 256).unwrap()
}

/// Executes a step of `side`. `records` are the directions by stream and writing side.
fn run(
    sides: &mut [Side; 2],
    records: &mut BTreeMap<(u32, usize), Record>,
    side: usize,
    step: Step,
) {
    let waker = noop_waker();
    let me = &mut sides[side];
    match step {
        Step::Open | Step::Accept => {
            let opened = match step {
                Step::Open => me.session.open(&waker),
                _ => me.session.accept(&waker),
            };
            if let Poll::Ready(id) = opened {
                me.streams.push(id.unwrap());
            }
        }
        Step::Write(index, n) => {
            let Some(id) = me.stream(index) else { return };
            let record = records.entry((id, side)).or_default();
            let data: Bytes = (record.written..record.written + n)
                .map(|position| byte(id, position))
                .collect();
            let piece = n.is_multiple_of(2).then_some(&data);
            if let Poll::Ready(Ok(n)) = me.session.write(id, &data, piece, &waker) {
                assert!(!record.closed);
                record.written += n;
            }
        }
        Step::Read(index, n) => {
            let Some(id) = me.stream(index) else { return };
            let record = records.entry((id, 1 - side)).or_default();
            if let Some(piece) = me.session.read_chunk(id, n) {
                assert!(!record.eof && (chunk_passing::MIN_BYTES..=n).contains(&piece.len()));
                for (offset, &got) in piece.iter().enumerate() {
                    assert_eq!(got, byte(id, record.read + offset));
                }
                record.read += piece.len();
                assert!(record.read <= record.written);
                return;
            }
            let mut buf = vec![0; n];
            match me.session.read(id, &mut buf, &waker) {
                Poll::Ready(Ok(0)) => {
                    assert!(record.closed, "end-of-file without close");
                    assert_eq!(record.read, record.written, "end-of-file before the end");
                    record.eof = true;
                }
                Poll::Ready(Ok(n)) => {
                    assert!(!record.eof);
                    for (offset, &got) in buf[..n].iter().enumerate() {
                        assert_eq!(got, byte(id, record.read + offset));
                    }
                    record.read += n;
                    assert!(record.read <= record.written);
                }
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
        Step::Close(index) => {
            let Some(id) = me.stream(index) else { return };
            if !matches!(me.session.close(id, &waker), Poll::Ready(Err(_))) {
                records.entry((id, side)).or_default().closed = true;
            }
        }
        Step::Drop(index) => {
            let Some(id) = me.stream(index) else { return };
            me.streams.retain(|&stream| stream != id);
            me.session.release(id);
        }
        Step::Deliver(n) => deliver(sides, side, n),
    }
}

fn deliver(sides: &mut [Side; 2], side: usize, n: usize) {
    let me = &mut sides[side];
    while me.wire.len() < n {
        let Some(chunk) = me.session.send_queue.pop_chunk() else {
            break;
        };
        me.session.on_written(chunk.len());
        me.wire.extend_from_slice(&chunk);
    }
    let rest = me.wire.split_off(n.min(me.wire.len()));
    let bytes = std::mem::replace(&mut me.wire, rest);
    let received = sides[1 - side].session.receive(&bytes);
    received.expect("both sides follow the protocol");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_return_a_prefix_of_the_writes_and_all_at_end_of_file(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut sides = [Side::new(Role::Client), Side::new(Role::Server)];
        let mut records = BTreeMap::new();
        for (side, step) in steps {
            run(&mut sides, &mut records, usize::from(side), step);
            for side in &mut sides {
                side.assert_charged();
            }
        }
        // Afterwards both sides close all streams, read to the end and drop them.
        for _ in 0..300 {
            for side in 0..2 {
                run(&mut sides, &mut records, side, Step::Accept);
                for index in 0..sides[side].streams.len() {
                    run(&mut sides, &mut records, side, Step::Close(index));
                    run(&mut sides, &mut records, side, Step::Read(index, 400_000));
                }
                run(&mut sides, &mut records, side, Step::Deliver(usize::MAX));
            }
        }
        for side in &mut sides {
            for id in std::mem::take(&mut side.streams) {
                let ended = side.session.read(id, &mut [0], &noop_waker());
                prop_assert!(ended.is_ready(), "stream {} never ends", id);
                side.session.release(id);
            }
        }
        for side in 0..2 {
            deliver(&mut sides, side, usize::MAX);
        }
        for side in &sides {
            prop_assert!(side.session.streams.is_empty());
            prop_assert_eq!(side.session.unread.bytes(), 0);
            prop_assert_eq!(side.session.delivered, 0);
            prop_assert_eq!(side.session.unacknowledged, 0);
            prop_assert_eq!(side.session.send_queue.pending(), 0);
        }
        // Polls the queue once more, which releases the last chunk.
        for side in &mut sides {
            prop_assert!(side.session.send_queue.pop_chunk().is_none());
            side.assert_charged();
            prop_assert_eq!(side.session.memory.held(), 0);
        }
    }
}
