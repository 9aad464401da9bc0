//! Remotes that violate the protocol or exhaust bounds.

use futures::task::noop_waker;
use proptest::prelude::*;
use resource_manager::{GUARANTEED_BYTES, ResourceLimits, Resources, Shares};

use super::{
    super::{
        INITIAL_WINDOW, ProtocolError,
        session::Session,
        stream_state::{Direction, StreamState},
    },
    *,
};

/// A header and its payload.
type Frame<'a> = (Header, &'a [u8]);

fn syn(stream: u32) -> Header {
    Header::window_update(stream, Flags::SYN, 0)
}

/// The error of a server upon `frames`, after stream 1 was accepted.
async fn violation(frames: &[Frame<'_>]) -> ProtocolError {
    let mut raw = Raw::new(Role::Server, Config::default());
    let stream = raw.stream(1).await;
    for (header, payload) in frames {
        raw.send(*header, payload).await;
    }
    let error = raw.violated().await;
    drop(stream);
    error
}

#[tokio::test]
async fn violations_end_the_connection_with_goaway() {
    let full = vec![0; INITIAL_WINDOW as usize];
    let cases: [(&[Frame], ProtocolError); 9] = [
        (&[(syn(2), &[])], ProtocolError::WrongParity(2)),
        (&[(syn(0), &[])], ProtocolError::WrongParity(0)),
        (&[(syn(1), &[])], ProtocolError::DuplicateStream(1)),
        (
            &[(Header::data(1, INITIAL_WINDOW + 1), &[])],
            ProtocolError::WindowExceeded(1),
        ),
        (
            &[
                (Header::data(1, INITIAL_WINDOW), &full),
                (Header::data(1, 1), &[]),
            ],
            ProtocolError::WindowExceeded(1),
        ),
        (
            &[(
                Header {
                    flags: Flags::SYN,
                    ..Header::data(3, u32::MAX)
                },
                &[],
            )],
            ProtocolError::WindowExceeded(3),
        ),
        (
            &[(
                Header::window_update(1, Flags::NONE, u32::MAX - INITIAL_WINDOW + 1),
                &[],
            )],
            ProtocolError::CreditOverflow(1),
        ),
        (
            &[(Header::window_update(3, Flags::SYN, u32::MAX), &[])],
            ProtocolError::CreditOverflow(3),
        ),
        (
            &[(fin(1), &[]), (Header::data(1, 1), &[])],
            ProtocolError::DataAfterFin(1),
        ),
    ];
    for (frames, expected) in cases {
        assert_eq!(violation(frames).await, expected);
    }
}

#[test]
fn client_rejects_odd_stream_ids() {
    let mut session = Session::new(Config::default(), Role::Client);
    assert_eq!(session.receive(&syn(2).encode()), Ok(()));
    assert_eq!(
        session.receive(&syn(1).encode()),
        Err(ProtocolError::WrongParity(1))
    );
}

#[tokio::test]
async fn frames_for_unknown_streams_are_ignored() {
    let mut raw = Raw::new(Role::Server, Config::default());
    raw.send(Header::data(9, 500_000), &vec![0; 500_000]).await;
    raw.send(rst(9), &[]).await;
    raw.send(fin(8), &[]).await;
    raw.send(Header::window_update(0, Flags::ACK, u32::MAX), &[])
        .await;
    assert_eq!(raw.received().await, []);
}

#[test]
fn payload_is_discarded_if_its_stream_was_opened_after_the_header() {
    let waker = noop_waker();
    let mut session = Session::new(Config::default(), Role::Client);
    let data = Header {
        flags: Flags::FIN,
        ..Header::data(1, 4_000_000)
    };
    session.receive(&data.encode()).unwrap();
    assert!(matches!(session.open(&waker), Poll::Ready(Ok(1))));
    session.receive(&vec![0; 4_000_000]).unwrap();
    assert_eq!(session.unread.bytes(), 0);
    assert!(session.read(1, &mut [0], &waker).is_pending());
}

#[test]
fn stream_flood_without_reading_ends_the_connection() {
    let mut session = Session::new(Config::default(), Role::Server);
    let mut refused = None;
    for id in (1..200_000).step_by(2) {
        if let Err(error) = session.receive(&syn(id).encode()) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(ProtocolError::ControlFlood));
    assert_eq!(session.backlog.len(), 256);
    assert_eq!(session.streams.len(), 256);
}

#[test]
fn streams_reset_before_acceptance_leave_no_state() {
    let mut session = Session::new(Config::default(), Role::Server);
    for id in (1..2000).step_by(2) {
        session.receive(&syn(id).encode()).unwrap();
        session.receive(&Header::data(id, 3).encode()).unwrap();
        session.receive(b"abc").unwrap();
        session.receive(&rst(id).encode()).unwrap();
    }
    assert!(session.streams.is_empty() && session.backlog.is_empty());
    assert_eq!(
        (session.unread.bytes(), session.send_queue.pending()),
        (0, 0)
    );
}

#[test]
fn abandoned_streams_are_bounded() {
    let waker = noop_waker();
    let mut session = Session::new(Config::default(), Role::Server);
    for id in (1..4001).step_by(2) {
        session.receive(&syn(id).encode()).unwrap();
        let Poll::Ready(Ok(accepted)) = session.accept(&waker) else {
            panic!("no stream to accept");
        };
        let _ = session.close(accepted, &waker);
        session.release(accepted);
        while let Some(chunk) = session.send_queue.pop_chunk() {
            session.on_written(chunk.len());
        }
    }
    assert_eq!(session.abandoned.len(), 1024);
    assert!(!session.abandoned.contains(&1) && session.abandoned.contains(&3999));
}

#[test]
fn dropped_streams_release_memory() {
    let mut session = Session::new(Config::default(), Role::Server);
    for id in (1..512).step_by(2) {
        session.receive(&syn(id).encode()).unwrap();
        session.receive(&Header::data(id, 100).encode()).unwrap();
        session.receive(&[0; 100]).unwrap();
    }
    // The minimum allocation per stream.
    assert_eq!(session.unread.bytes(), 256 * 1024);
    while let Poll::Ready(Ok(id)) = session.accept(&noop_waker()) {
        session.release(id);
    }
    assert_eq!(session.unread.bytes(), 0);
    assert!(session.streams.capacity() < 50);
}

/// A session within `resources` that has accepted stream 1.
fn accepted(resources: &Resources) -> Session {
    let mut session = Session::new(Config::for_resources(resources.clone()), Role::Server);
    session.receive(&syn(1).encode()).unwrap();
    assert!(session.accept(&noop_waker()).is_ready());
    session
}

fn send(session: &mut Session, bytes: u32) {
    session.receive(&Header::data(1, bytes).encode()).unwrap();
    session.receive(&vec![0; bytes as usize]).unwrap();
}

#[test]
fn connection_holding_most_is_reset_when_buffers_are_full() {
    let resources = Resources::new(
        ResourceLimits {
            // Only the bytes beyond the guarantee of 64 KiB count.
            buffered: Some(200_000 - GUARANTEED_BYTES),
            ..*Resources::unlimited().limits()
        },
        Shares::default(),
    );
    let [mut greedy, mut modest] = [(); 2].map(|()| accepted(&resources));
    send(&mut greedy, 200_000);
    send(&mut modest, 60_000);
    assert_eq!(modest.unread.bytes(), 60_000);
    assert_eq!(greedy.streams[&1].outbound, Direction::Open);
    send(&mut greedy, 1);
    assert_eq!(greedy.streams[&1].outbound, Direction::Reset);
    greedy.release(1);
    send(&mut modest, 140_000);
    assert_eq!(modest.streams[&1].outbound, Direction::Open);
    // A dropped connection releases its memory.
    drop(modest);
    let mut next = accepted(&resources);
    send(&mut next, 200_000);
    assert_eq!(next.unread.bytes(), 200_000);
}

#[test]
fn windows_do_not_grow_under_memory_pressure() {
    let resources = Resources::new(
        ResourceLimits {
            memory: Some(1000),
            ..*Resources::unlimited().limits()
        },
        Shares::default(),
    );
    let mut session = accepted(&resources);
    let mut read_out = |used| {
        resources.update(used);
        // More often than it takes to detect that no other stream is busy.
        for _ in 0..16 {
            send(&mut session, INITIAL_WINDOW);
            let mut buffer = vec![0; INITIAL_WINDOW as usize];
            while session.read(1, &mut buffer, &noop_waker()).is_ready() {}
        }
        session.streams[&1].window.left()
    };
    assert_eq!(read_out(1000), INITIAL_WINDOW);
    assert!(read_out(0) > INITIAL_WINDOW);
}

/// A header does not reserve memory for its payload.
#[test]
fn payload_is_checked_against_memory_after_its_header() {
    const ALL: u32 = 200_000;
    let limits = *Resources::unlimited().limits();
    let resources = Resources::new(
        ResourceLimits {
            buffered: Some(ALL.into()),
            ..limits
        },
        Shares::default(),
    );
    let mut sessions: Vec<_> = (0..4)
        .map(|_| Session::new(Config::for_resources(resources.clone()), Role::Server))
        .collect();
    for session in &mut sessions {
        let header = Header {
            flags: Flags::SYN,
            ..Header::data(1, ALL)
        };
        session.receive(&header.encode()).unwrap();
        assert!(session.streams[&1].inbound == Direction::Open);
    }
    for session in &mut sessions {
        for _ in 0..ALL / 1000 {
            session.receive(&[0; 1000]).unwrap();
        }
    }
    let held = sessions.iter().map(|session| session.unread.bytes());
    // The limit, and the guarantee of each connection.
    let limit = ALL as usize + sessions.len() * 64 * 1024;
    assert!(held.sum::<usize>() <= limit);
    for session in &sessions {
        assert_bounded(session);
    }
}

fn small() -> Config {
    Config {
        max_streams: 6,
        max_accept_backlog: 3,
        max_receive_buffer: 300_000,
        max_send_queue: 1_000,
        ..Config::default()
    }
}

/// Asserts all bounds of a session.
fn assert_bounded(session: &Session) {
    let held: usize = session.streams.values().map(StreamState::held_bytes).sum();
    assert_eq!(session.unread.bytes(), held);
    // The last chunk may have unused capacity.
    assert!(held <= session.config.max_receive_buffer + session.delivered + 1024);
    for stream in session.streams.values() {
        assert!(stream.unread.len() <= session.config.max_receive_window as usize);
    }
    assert!(session.streams.len() <= session.config.max_streams);
    assert!(session.backlog.len() <= session.config.max_accept_backlog);
    assert!(session.send_queue.pending() <= 200_000);
}

/// Frames that are plausible enough to pass the first checks.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![
        4 => 0..100_u32,
        2 => 0..300_000_u32,
        1 => any::<u32>(),
    ];
    let flags = prop_oneof![3 => Just(0), 1 => 0..16_u16];
    (0..4_u8, flags, 0..12_u32, lengths, any::<bool>()).prop_map(
        |(kind, flags, stream, length, whole)| {
            let mut bytes = vec![0, kind];
            bytes.extend(flags.to_be_bytes());
            bytes.extend(stream.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            if kind == 0 && whole && length < 300_000 {
                bytes.resize(bytes.len() + length as usize, 0);
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn arbitrary_bytes_exceed_no_bound(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        client in any::<bool>(),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let mut session = Session::new(small(), role);
        for piece in pieces {
            if session.receive(&piece).is_err() {
                break;
            }
            assert_bounded(&session);
        }
    }

    #[test]
    fn arbitrary_frames_exceed_no_bound(
        frames in prop::collection::vec((frame(), 0..6_u8), 0..60),
    ) {
        let waker = noop_waker();
        let mut session = Session::new(small(), Role::Server);
        let mut held = Vec::new();
        for (frame, action) in frames {
            if session.receive(&frame).is_err() {
                break;
            }
            match action {
                0 => if let Poll::Ready(Ok(id)) = session.accept(&waker) {
                    held.push(id);
                },
                1 => if let Some(id) = held.pop() {
                    session.release(id);
                },
                2 => if let Some(&id) = held.first() {
                    let _ = session.read(id, &mut [0; 5000], &waker);
                    let _ = session.write(id, &[0; 500], None, &waker);
                },
                3 => if let Some(&id) = held.last() {
                    let _ = session.close(id, &waker);
                },
                4 => if let Some(chunk) = session.send_queue.pop_chunk() {
                    session.on_written(chunk.len());
                },
                _ => if let Poll::Ready(Ok(id)) = session.open(&waker) {
                    held.push(id);
                },
            }
            assert_bounded(&session);
        }
    }
}

#[tokio::test]
async fn undecodable_bytes_end_the_connection() {
    for seed in 1..50 {
        let (a, mut b) = sockets();
        let mut peer = Peer::new(ours(a, Role::Server));
        soon(b.write_all(&pattern(1000, seed))).await.unwrap();
        drop(b);
        assert!(peer.ended().await.is_err());
    }
}
