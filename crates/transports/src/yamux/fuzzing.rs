//! The fuzz target for yamux sessions; see [`crate::fuzzing`].

use std::task::{Poll, Waker};

use super::{
    Config, ProtocolError,
    session::{Role, Session},
    stream_state::StreamState,
};

/// Limits that are small enough for a fuzzer to reach.
const MAX_STREAMS: usize = 8;
const MAX_BACKLOG: usize = 4;
const MAX_RECEIVE_BUFFER: usize = 512 * 1024;
const MAX_SEND_QUEUE: usize = 4096;
/// The maximum length of the send queue: [`MAX_SEND_QUEUE`], one more frame, and control frames.
const MAX_QUEUED: usize = 1024 * 1024;

/// Executes the steps that `bytes` encode. Each begins with two bytes: its type and the index of a
/// stream, and a length. Asserts after each step that all limits hold, and that the charges equal the
/// sums over the streams.
pub fn yamux(bytes: &[u8]) {
    let config = Config {
        max_streams: MAX_STREAMS,
        max_accept_backlog: MAX_BACKLOG,
        max_receive_buffer: MAX_RECEIVE_BUFFER,
        max_send_queue: MAX_SEND_QUEUE,
        ..Config::default()
    };
    let mut session = Session::new(config, Role::Server);
    let mut streams = Vec::new();
    let mut rest = bytes;
    while let [step, length, tail @ ..] = rest {
        let length = usize::from(*length);
        rest = tail;
        let (kind, index) = (step % 8, usize::from(step / 16));
        let stream = streams.get(index).copied();
        let mut data: &[u8] = &[];
        if kind == 0 {
            (data, rest) = tail.split_at(tail.len().min(length));
        }
        if apply_step(&mut session, &mut streams, kind, stream, length, data).is_err() {
            session.end(None);
        }
        session.update_charge();
        check(&session);
        if session.ended {
            break;
        }
    }
    for id in streams {
        session.release(id);
    }
    session.abort();
    session.update_charge();
    check(&session);
}

fn apply_step(
    session: &mut Session,
    streams: &mut Vec<u32>,
    step: u8,
    stream: Option<u32>,
    length: usize,
    data: &[u8],
) -> Result<(), ProtocolError> {
    let waker = Waker::noop();
    match (step, stream) {
        (0, _) => session.receive(data)?,
        // More bytes than a step can contain.
        (1, _) => session.receive(&vec![0; length * 1024])?,
        (2, _) => {
            if let Poll::Ready(Ok(id)) = session.accept(waker) {
                streams.push(id);
            }
        }
        (3, _) => {
            if let Poll::Ready(Ok(id)) = session.open(waker) {
                streams.push(id);
            }
        }
        (4, Some(id)) => {
            let _ = session.read(id, &mut vec![0; length * 64], waker);
        }
        (5, Some(id)) => {
            let _ = session.write(id, &vec![0; length * 64], None, waker);
        }
        (6, Some(id)) if length.is_multiple_of(2) => {
            let _ = session.close(id, waker);
        }
        (6, Some(id)) => {
            streams.retain(|stream| *stream != id);
            session.release(id);
        }
        (7, _) if length == 0 => {
            session.relieve_memory();
        }
        _ => {
            if let Some(chunk) = session.send_queue.pop_chunk() {
                session.on_written(chunk.len());
            }
        }
    }
    Ok(())
}

fn check(session: &Session) {
    assert!(session.streams.len() <= MAX_STREAMS);
    assert!(session.backlog.len() <= MAX_BACKLOG);
    // The last chunk may have unused capacity.
    assert!(session.unread.bytes() <= MAX_RECEIVE_BUFFER + session.delivered + 1024);
    let delivered: usize = session
        .streams
        .values()
        .map(|stream| stream.delivered)
        .sum();
    assert_eq!(session.delivered, delivered);
    assert!(session.send_queue.pending() <= MAX_QUEUED);
    let unread: usize = session.streams.values().map(StreamState::held_bytes).sum();
    assert_eq!(session.unread.bytes(), unread);
    let queued = session.send_queue.held_bytes();
    assert_eq!(session.queued.bytes(), queued);
    assert_eq!(session.memory.held(), (unread + queued) as u64);
    let own = session
        .streams
        .iter()
        .filter(|(id, _)| session.role.opens(**id));
    let unacknowledged = own.filter(|(_, stream)| !stream.accepted).count();
    assert_eq!(session.unacknowledged, unacknowledged);
}
