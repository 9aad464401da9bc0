//! Back-pressure: buffers are bounded, and no task waits without cause.

use futures::future::select;

use super::{
    super::{INITIAL_WINDOW, ProtocolError},
    *,
};

/// Writes until the stream is blocked, even after the connection was polled 100 times. Returns the
/// number of bytes that were written.
async fn fill(stream: &mut (impl AsyncWrite + Unpin)) -> usize {
    let mut total = 0;
    let mut idle = 0;
    while idle < 100 {
        match poll_once(stream.write(&[7; 10_000])) {
            Poll::Ready(written) => {
                total += written.unwrap();
                idle = 0;
            }
            Poll::Pending => {
                idle += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    total
}

#[tokio::test]
async fn writer_is_bounded_by_the_window() {
    let mut link = link().await;
    assert_eq!(fill(&mut link.a).await, INITIAL_WINDOW as usize);

    // Less than half a window is not credited, half a window is.
    let half = INITIAL_WINDOW as usize / 2;
    let mut buf = vec![0; half - 1];
    soon(link.b.read_exact(&mut buf)).await.unwrap();
    assert_eq!(fill(&mut link.a).await, 0);
    soon(link.b.read_exact(&mut [0; 1])).await.unwrap();
    assert_eq!(fill(&mut link.a).await, half);
}

#[tokio::test]
async fn writers_are_bounded_by_the_send_queue() {
    let config = Config {
        max_send_queue: 100_000,
        max_frame_size: 5_000,
        ..Config::default()
    };
    let mut raw = Raw::new(Role::Server, config);
    let mut streams = Vec::new();
    for id in (1..20).step_by(2) {
        streams.push(raw.stream(id).await);
    }
    let mut total = 0;
    for stream in &mut streams {
        total += fill(stream).await;
    }
    let least = SOCKET_BUFFER + 90_000;
    let most = SOCKET_BUFFER + 100_000 + 5_000;
    assert!((least..=most).contains(&total), "{total} bytes were taken");
}

#[tokio::test]
async fn writers_share_a_slow_socket_equally() {
    let config = Config {
        max_send_queue: 40_000,
        max_frame_size: 10_000,
        ..Config::default()
    };
    let mut raw = Raw::new(Role::Server, config);
    let mut streams = Vec::new();
    for id in [1, 3, 5, 7] {
        streams.push(raw.stream(id).await);
    }
    let mut writers = JoinSet::new();
    for mut stream in streams {
        writers.spawn(async move { stream.write_all(&vec![0; 200_000]).await });
    }
    let mut received = [0_u32; 8];
    while received.iter().sum::<u32>() < 600_000 {
        let (header, _) = raw.receive().await;
        received[header.stream as usize] += header.length;
    }
    let shares: Vec<u32> = received.into_iter().filter(|&n| n > 0).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(shares.len() == 4 && most - least <= 60_000, "{shares:?}");
    while received.iter().sum::<u32>() < 800_000 {
        let (header, _) = raw.receive().await;
        received[header.stream as usize] += header.length;
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap().unwrap();
    }
}

#[tokio::test]
async fn unused_turn_does_not_block_other_writers() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut busy = raw.stream(1).await;
    let mut lazy = raw.stream(3).await;
    let mut patient = raw.stream(5).await;
    while poll_once(busy.write(&[0; 10_000])).is_ready() {}
    assert!(poll_once(lazy.write(b"never again")).is_pending());
    let receive = async {
        let mut received = Vec::new();
        while received != b"patient" {
            let (header, payload) = raw.receive().await;
            if header.stream == 5 {
                received.extend(payload);
            }
        }
    };
    let write = patient.write_all(b"patient");
    let (written, ()) = soon(futures::future::join(write, receive)).await;
    written.unwrap();
    drop(lazy);
}

#[tokio::test]
async fn close_waits_for_the_socket() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    soon(stream.write_all(&vec![0; 2 * SOCKET_BUFFER]))
        .await
        .unwrap();
    soon(stream.flush()).await.unwrap();
    for _ in 0..100 {
        assert!(poll_once(stream.close()).is_pending());
        tokio::task::yield_now().await;
    }
    let drain = std::pin::pin!(async {
        loop {
            raw.receive().await;
        }
    });
    let closed = select(stream.close(), drain);
    assert!(matches!(soon(closed).await, Either::Left((Ok(()), _))));
}

#[tokio::test]
async fn window_of_the_only_stream_grows_to_its_maximum() {
    let config = Config {
        max_receive_window: 2 * INITIAL_WINDOW,
        ..Config::default()
    };
    let mut raw = Raw::new(Role::Server, config);
    let mut stream = raw.stream(1).await;
    let mut window = INITIAL_WINDOW;
    for _ in 0..16 {
        let data = vec![0; window as usize];
        let send = raw.send(Header::data(1, window), &data);
        let mut read = vec![0; data.len()];
        let ((), read) = soon(futures::future::join(send, stream.read_exact(&mut read))).await;
        read.unwrap();
        assert!(poll_once(stream.read(&mut [0; 1])).is_pending());
        let updates = raw.received().await;
        window = updates.iter().map(|update| update.length).sum();
        assert!(window <= 2 * INITIAL_WINDOW);
    }
    assert_eq!(window, 2 * INITIAL_WINDOW);
}

#[tokio::test]
async fn stream_exceeding_the_receive_buffer_is_reset() {
    let config = Config {
        max_receive_buffer: 100_000,
        ..Config::default()
    };
    let mut raw = Raw::new(Role::Server, config);
    let mut kept = raw.stream(1).await;
    let mut lost = raw.stream(3).await;
    raw.send(Header::data(1, 60_000), &vec![1; 60_000]).await;
    raw.send(Header::data(3, 60_000), &vec![3; 60_000]).await;
    assert_eq!(raw.received().await, [rst(3)]);
    let (_, end) = read_all(&mut lost).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    soon(kept.read_exact(&mut vec![0; 60_000])).await.unwrap();
    raw.send(Header::data(1, 60_000), &vec![1; 60_000]).await;
    assert_eq!(raw.received().await, []);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let config = Config {
        max_streams: 3,
        max_accept_backlog: 2,
        ..Config::default()
    };
    let mut raw = Raw::new(Role::Server, config);
    let stream = raw.stream(1).await;
    let _another = raw.stream(3).await;
    let _last = raw.stream(5).await;
    let more = Header {
        flags: Flags::SYN,
        ..Header::data(7, 3)
    };
    raw.send(more, b"abc").await;
    raw.send(Header::data(7, 3), b"def").await;
    assert_eq!(raw.received().await, [rst(7)]);
    drop(stream);
    assert_eq!(raw.received().await, [rst(1)]);
    raw.stream(9).await;
}

#[tokio::test]
async fn open_waits_for_the_limits() {
    let config = Config {
        max_streams: 1,
        ..Config::default()
    };
    let (a, _b) = sockets();
    let mut muxer = Muxer::new(a, config, Role::Client);
    let mut open = || poll_once(poll_fn(|cx| muxer.poll_outbound_unpin(cx)));
    let Poll::Ready(Ok(first)) = open() else {
        panic!("the first stream opens at once");
    };
    assert!(open().is_pending());
    drop(first);
    assert!(open().is_ready());

    let (a, _b) = sockets();
    let mut muxer = ours(a, Role::Client);
    let mut open = || poll_once(poll_fn(|cx| muxer.poll_outbound_unpin(cx)));
    let mut streams = Vec::new();
    while let Poll::Ready(stream) = open() {
        streams.push(stream.unwrap());
    }
    assert_eq!(streams.len(), 256);
}

#[tokio::test]
async fn ping_flood_ends_the_connection() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let stream = raw.stream(1).await;
    let pings: Vec<u8> = (0..33)
        .flat_map(|value| Header::ping(value).encode())
        .collect();
    soon(raw.socket.write_all(&pings)).await.unwrap();
    assert_eq!(raw.violated().await, ProtocolError::PingFlood);
    drop(stream);
}

#[tokio::test]
async fn idle_connection_holds_no_buffers() {
    let (a, b) = sockets();
    let mut us = ours(a, Role::Server);
    let them = Peer::new(ours(b, Role::Client));
    let mut theirs = them.open().await;
    let mut stream = soon(poll_fn(|cx| {
        assert!(us.poll_unpin(cx).is_pending());
        us.poll_inbound_unpin(cx)
    }))
    .await
    .unwrap();
    assert!(!us.is_holding_buffers());

    soon(theirs.write_all(&vec![0; 50_000])).await.unwrap();
    soon(theirs.close()).await.unwrap();
    assert!(poll_once(poll_fn(|cx| us.poll_unpin(cx))).is_pending());
    soon(stream.read_exact(&mut vec![0; 50_000])).await.unwrap();
    assert!(!us.is_holding_buffers());
    soon(stream.write_all(&vec![0; 50_000])).await.unwrap();
    assert!(poll_once(poll_fn(|cx| us.poll_unpin(cx))).is_pending());
    assert!(!us.is_holding_buffers());
}
