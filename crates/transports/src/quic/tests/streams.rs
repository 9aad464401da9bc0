//! Our streams against those of plain quinn: how each side sees the end of the other.

use std::{
    future::poll_fn,
    io::ErrorKind,
    pin::Pin,
    task::{Poll, ready},
};

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::muxing::StreamMuxerEvent;
use quinn::{ReadError, RecvStream, SendStream};
use stream_io::chunk_passing;

use super::super::Stream;
use super::*;

/// A stream, on a separate connection.
struct Pair {
    ours: Stream,
    send: SendStream,
    recv: RecvStream,
    muxer: Connection,
    connection: quinn::Connection,
    _server: Server,
}

impl Pair {
    /// The peer has sent `hello`, and we have read it.
    async fn new() -> Self {
        let mut server = Server::start().await;
        let (mut muxer, connection) = server.pair().await;
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let mut ours = within(inbound(&mut muxer)).await.unwrap();
        let mut hello = [0; 5];
        within(ours.read_exact(&mut hello)).await.unwrap();
        assert_eq!(&hello, b"hello");
        Self {
            ours,
            send,
            recv,
            muxer,
            connection,
            _server: server,
        }
    }
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn dropped_while_both_sides_are_open() {
    let mut pair = Pair::new().await;
    pair.ours.write_all(b"half an ans").await.unwrap();
    drop(pair.ours);
    let end = within(pair.recv.read_to_end(100)).await;
    assert_eq!(end, Err(ReadError::Reset(0_u8.into()).into()));
    assert_eq!(within(pair.send.stopped()).await, Ok(Some(0_u8.into())));
}

#[tokio::test]
async fn dropped_after_the_peer_finished() {
    let mut pair = Pair::new().await;
    pair.send.finish().unwrap();
    assert_eq!(within(pair.ours.read(&mut [0; 8])).await.unwrap(), 0);
    drop(pair.ours);
    let end = within(pair.recv.read(&mut [0; 8])).await;
    assert_eq!(end, Err(ReadError::Reset(0_u8.into())));
    // The stream was read to its end, so there is no STOP_SENDING.
    assert_eq!(within(pair.send.stopped()).await, Ok(None));
}

#[tokio::test]
async fn dropped_after_we_closed() {
    let mut pair = Pair::new().await;
    // More than the initial congestion window.
    let data = pattern(512 * 1024);
    pair.ours.write_all(&data).await.unwrap();
    pair.ours.close().await.unwrap();
    pair.ours.close().await.unwrap();
    drop(pair.ours);
    let got = within(pair.recv.read_to_end(data.len())).await.unwrap();
    assert!(got == data);
    assert_eq!(within(pair.send.stopped()).await, Ok(Some(0_u8.into())));
}

#[tokio::test]
async fn dropped_after_both_closed() {
    let mut pair = Pair::new().await;
    pair.send.finish().unwrap();
    pair.ours.write_all(b"answer").await.unwrap();
    pair.ours.close().await.unwrap();
    assert_eq!(within(pair.ours.read(&mut [0; 8])).await.unwrap(), 0);
    drop(pair.ours);
    let got = within(pair.recv.read_to_end(100)).await.unwrap();
    assert_eq!(got, b"answer");
    assert_eq!(within(pair.send.stopped()).await, Ok(None));
}

#[tokio::test]
async fn opened_by_us_and_dropped_at_once() {
    let mut pair = Pair::new().await;
    drop(outbound(&mut pair.muxer).await);
    let (_, mut recv) = within(pair.connection.accept_bi()).await.unwrap();
    let end = within(recv.read(&mut [0; 8])).await;
    assert_eq!(end, Err(ReadError::Reset(0_u8.into())));
}

#[tokio::test]
async fn writing_after_close_fails() {
    let mut pair = Pair::new().await;
    pair.ours.close().await.unwrap();
    assert_eq!(kind(pair.ours.write(b"more").await), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn reset_is_never_reported_as_end_of_file() {
    let mut pair = Pair::new().await;
    pair.send.reset(7_u8.into()).unwrap();
    let mut buf = [0; 8];
    for _ in 0..3 {
        let end = within(pair.ours.read(&mut buf)).await;
        assert_eq!(kind(end), ErrorKind::ConnectionReset);
    }
    // The other direction still works.
    pair.ours.write_all(b"answer").await.unwrap();
    pair.ours.close().await.unwrap();
    let got = within(pair.recv.read_to_end(100)).await.unwrap();
    assert_eq!(got, b"answer");
}

#[tokio::test]
async fn stop_sending_is_reported_as_broken_pipe() {
    let mut pair = Pair::new().await;
    pair.recv.stop(7_u8.into()).unwrap();
    let error = within(async {
        loop {
            if let Err(error) = pair.ours.write(&[0; 1024]).await {
                break error;
            }
        }
    });
    assert_eq!(error.await.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn lost_connection_is_never_reported_as_end_of_file() {
    let mut pair = Pair::new().await;
    pair.connection.close(7_u8.into(), b"");
    for _ in 0..2 {
        let end = within(pair.ours.read(&mut [0; 8])).await;
        assert_eq!(kind(end), ErrorKind::ConnectionAborted);
    }
    assert_eq!(
        kind(pair.ours.write(b"more").await),
        ErrorKind::ConnectionAborted
    );
    let event = within(poll_fn(|cx| pair.muxer.poll_unpin(cx))).await;
    assert!(event.is_err());
}

/// A read with an empty buffer waits for a failure.
#[tokio::test]
async fn failure_is_reported_before_remaining_data() {
    let mut pair = Pair::new().await;
    pair.send.write_all(b"more").await.unwrap();
    let reset = async {
        pair.send.reset(7_u8.into()).unwrap();
        pair.recv.stop(7_u8.into()).unwrap();
    };
    let (failure, ()) = within(futures::future::join(pair.ours.read(&mut []), reset)).await;
    assert_eq!(kind(failure), ErrorKind::ConnectionReset);
    let end = within(pair.ours.read(&mut [0; 8])).await;
    assert_eq!(kind(end), ErrorKind::ConnectionReset);

    let mut pair = Pair::new().await;
    pair.send.write_all(b"more").await.unwrap();
    let lost = async { pair.connection.close(7_u8.into(), b"") };
    let (failure, ()) = within(futures::future::join(pair.ours.read(&mut []), lost)).await;
    assert_eq!(kind(failure), ErrorKind::ConnectionAborted);
}

/// The peer does not send `STOP_SENDING`, which would report the failure as well.
#[tokio::test]
async fn reset_without_stop_sending_is_noticed_while_data_is_left() {
    let mut pair = Pair::new().await;
    pair.send.write_all(b"more").await.unwrap();
    let mut first = [0];
    within(pair.ours.read_exact(&mut first)).await.unwrap();
    let reset = async { pair.send.reset(7_u8.into()).unwrap() };
    let (failure, ()) = within(futures::future::join(pair.ours.read(&mut []), reset)).await;
    assert_eq!(kind(failure), ErrorKind::ConnectionReset);
}

/// Requests chunks until there is one, or returns `None` at the end of the stream.
async fn chunk(stream: &mut Stream, max: usize) -> std::io::Result<Option<Bytes>> {
    within(poll_fn(|cx| {
        let chunk =
            chunk_passing::request_chunk(max, || Pin::new(&mut *stream).poll_read(cx, &mut []));
        if chunk.is_some() {
            return Poll::Ready(Ok(chunk));
        }
        let mut byte = [0];
        let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut byte))?;
        assert_eq!(read, 0, "available data is in the chunk");
        Poll::Ready(Ok(None))
    }))
    .await
}

#[tokio::test]
async fn chunk_has_the_available_data_up_to_the_requested_length() {
    const MAX: usize = 10_000;
    let mut pair = Pair::new().await;
    let data = pattern(100_000);
    let sent = data.clone();
    let sending = async {
        pair.send.write_all(&sent).await.unwrap();
        pair.send.finish().unwrap();
    };
    let mut received = Vec::new();
    let receiving = async {
        while let Some(chunk) = chunk(&mut pair.ours, MAX).await.unwrap() {
            assert!((1..=MAX).contains(&chunk.len()));
            received.extend_from_slice(&chunk);
        }
    };
    tokio::join!(sending, receiving);
    assert!(received == data);
}

#[tokio::test]
async fn surplus_of_a_chunk_is_read_next() {
    let mut pair = Pair::new().await;
    let data = pattern(1000);
    pair.send.write_all(&data).await.unwrap();
    pair.send.finish().unwrap();
    let mut received = Vec::new();
    loop {
        let chunk = within(poll_fn(|cx| pair.ours.poll_chunk(cx, 7))).await;
        let chunk = chunk.unwrap();
        assert!(chunk.len() <= 7);
        received.extend_from_slice(&chunk);
        let mut some = [0; 5];
        let read = within(pair.ours.read(&mut some)).await.unwrap();
        received.extend_from_slice(&some[..read]);
        if read == 0 {
            break;
        }
    }
    assert!(received == data);
}

#[tokio::test]
async fn reset_is_never_reported_as_end_of_file_to_a_chunk_request() {
    let mut pair = Pair::new().await;
    pair.send.reset(7_u8.into()).unwrap();
    let error = chunk(&mut pair.ours, 10_000).await;
    assert_eq!(kind(error), ErrorKind::ConnectionReset);
    let again = within(pair.ours.read(&mut [0])).await;
    assert_eq!(kind(again), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn accepted_part_of_a_chunk_is_delivered() {
    let mut pair = Pair::new().await;
    let data = Bytes::from(pattern(3_000_000));
    let mut rest = data.clone();
    let sending = async {
        while !rest.is_empty() {
            let written = poll_fn(|cx| {
                let stream = Pin::new(&mut pair.ours);
                chunk_passing::with_chunk(&rest, |bytes| stream.poll_write(cx, bytes))
            });
            let written = written.await.unwrap();
            assert!(written > 0);
            let _ = rest.split_to(written);
        }
        pair.ours.close().await.unwrap();
    };
    let ((), received) =
        within(async { tokio::join!(sending, pair.recv.read_to_end(usize::MAX)) }).await;
    assert!(received.unwrap() == data);
}

#[tokio::test]
async fn stop_sending_leaves_received_data_complete() {
    let mut pair = Pair::new().await;
    pair.send.write_all(b"more").await.unwrap();
    pair.send.finish().unwrap();
    let stop = async { pair.recv.stop(7_u8.into()).unwrap() };
    let (failure, ()) = within(futures::future::join(pair.ours.read(&mut []), stop)).await;
    assert_eq!(kind(failure), ErrorKind::BrokenPipe);
    let mut rest = Vec::new();
    within(pair.ours.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"more");
    assert_eq!(
        kind(within(pair.ours.read(&mut [])).await),
        ErrorKind::BrokenPipe
    );
}

#[tokio::test]
async fn complete_data_does_not_fail_while_the_peer_reads() {
    let mut pair = Pair::new().await;
    pair.send.write_all(b"more").await.unwrap();
    pair.send.finish().unwrap();
    let mut rest = Vec::new();
    within(pair.ours.read_to_end(&mut rest)).await.unwrap();
    assert!(pair.ours.read(&mut []).now_or_never().is_none());
}

#[tokio::test]
async fn buffered_data_of_a_stalled_reader_is_bounded() {
    const WINDOW: u32 = 64 * 1024;
    let keypair = Keypair::generate_ed25519();
    let mut server = Server::with(&keypair, LOOPBACK, |config| {
        config.stream_receive_window = WINDOW;
    })
    .await;
    let (_muxer, connection) = server.pair().await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let mut total = 0;
    // The last write is blocked, which is certain only after a while.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), send.write(&[0; 4096])).await
    {
        total += written.unwrap();
    }
    assert_eq!(total, WINDOW as usize);
}

#[tokio::test]
async fn connection_survives_migration() {
    let mut server = Server::start().await;
    let endpoint = client();
    let connecting = endpoint.connect(server.socket(), "any").unwrap();
    let (mut muxer, connection) = tokio::join!(server.connection(), within(connecting));
    let connection = connection.unwrap();

    let socket = udp();
    let moved_to = socket.local_addr().unwrap();
    endpoint.rebind(socket).unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"from elsewhere").await.unwrap();
    send.finish().unwrap();

    let mut stream = within(poll_fn(|cx| muxer.poll_inbound_unpin(cx)))
        .await
        .unwrap();
    let StreamMuxerEvent::AddressChange(new_address) =
        within(poll_fn(|cx| muxer.poll_unpin(cx))).await.unwrap();
    assert_eq!(new_address, address::format(moved_to));

    let mut got = Vec::new();
    within(stream.read_to_end(&mut got)).await.unwrap();
    stream.write_all(&got).await.unwrap();
    stream.close().await.unwrap();
    let answer = within(recv.read_to_end(100)).await.unwrap();
    assert_eq!(answer, b"from elsewhere");
}

#[tokio::test]
async fn concurrent_streams_are_limited_to_the_maximum() {
    const MAX_STREAMS: u32 = 60;
    let key = Keypair::generate_ed25519();
    let mut server = Server::with(&key, LOOPBACK, |config| config.max_streams = MAX_STREAMS).await;
    let (mut muxer, connection) = server.pair().await;
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        let (mut send, recv) = within(connection.open_bi()).await.unwrap();
        send.write_all(b"here").await.unwrap();
        open.push((send, recv, within(inbound(&mut muxer)).await.unwrap()));
    }
    // All updates of the limit have arrived when this byte does.
    let (mut send, mut recv, mut ours) = open.pop().unwrap();
    ours.write_all(b"there").await.unwrap();
    let mut there = [0; 5];
    within(recv.read_exact(&mut there)).await.unwrap();
    assert!(connection.open_bi().now_or_never().is_none());

    send.finish().unwrap();
    drop((ours, open));
    within(connection.open_bi()).await.unwrap();
}
