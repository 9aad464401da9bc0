//! How the end of a stream on one side is seen by the other side.

use std::io::ErrorKind;

use super::*;

#[tokio::test]
async fn dropped_while_open() {
    let mut link = link().await;
    soon(link.a.write_all(b"half a message")).await.unwrap();
    drop(link.a);
    let (data, end) = read_all(&mut link.b).await;
    assert_eq!(data, b"half a message");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        link.b.write_all(b"x").await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(
        link.b.close().await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn dropped_after_the_remote_finished() {
    let mut link = link().await;
    soon(link.b.close()).await.unwrap();
    let (_, end) = read_all(&mut link.a).await;
    end.unwrap();
    soon(link.a.write_all(b"half an answer")).await.unwrap();
    drop(link.a);
    let (data, end) = read_all(&mut link.b).await;
    assert_eq!(data, b"half an answer");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn dropped_after_finishing_it() {
    let mut link = link().await;
    let message = pattern(200_000, 1);
    soon(link.a.write_all(&message)).await.unwrap();
    soon(link.a.close()).await.unwrap();
    drop(link.a);
    let (data, end) = read_all(&mut link.b).await;
    assert!(data == message);
    end.unwrap();
    // Data from the remote is answered with RST, since it is not read.
    assert_eq!(
        write_until_error(&mut link.b).await,
        ErrorKind::ConnectionReset
    );
    let (_, end) = read_all(&mut link.b).await;
    end.expect("that direction was complete");
}

#[tokio::test]
async fn dropped_after_both_finished() {
    let mut link = link().await;
    soon(link.a.close()).await.unwrap();
    soon(link.b.close()).await.unwrap();
    let (_, end) = read_all(&mut link.a).await;
    end.unwrap();
    drop(link.a);
    let (_, end) = read_all(&mut link.b).await;
    end.unwrap();
    assert_eq!(
        link.b.write_all(b"x").await.unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    soon(link.b.close()).await.expect("closing is idempotent");
}

/// The frames that are sent when a stream is dropped, by state.
#[tokio::test]
async fn drop_sends_the_documented_frames() {
    let mut raw = Raw::new(Role::Server, Config::default());

    // Open.
    let stream = raw.stream(1).await;
    drop(stream);
    assert_eq!(raw.received().await, [rst(1)]);

    // Finished by the remote.
    let stream = raw.stream(3).await;
    raw.send(fin(3), &[]).await;
    assert_eq!(raw.received().await, []);
    drop(stream);
    assert_eq!(raw.received().await, [rst(3)]);

    // Finished by both.
    let mut stream = raw.stream(5).await;
    soon(stream.close()).await.unwrap();
    raw.send(fin(5), &[]).await;
    assert_eq!(raw.received().await, [fin(5)]);
    drop(stream);
    assert_eq!(raw.received().await, []);

    // Reset by the remote.
    let stream = raw.stream(7).await;
    raw.send(rst(7), &[]).await;
    assert_eq!(raw.received().await, []);
    drop(stream);
    assert_eq!(raw.received().await, []);
}

#[tokio::test]
async fn first_data_resets_an_abandoned_stream() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    soon(stream.close()).await.unwrap();
    drop(stream);
    let empty = Header::data(1, 0);
    raw.send(empty, &[]).await;
    raw.send(Header::window_update(1, Flags::NONE, 5), &[])
        .await;
    assert_eq!(raw.received().await, [fin(1)]);
    raw.send(Header::data(1, 3), b"abc").await;
    assert_eq!(raw.received().await, [rst(1)]);
    raw.send(Header::data(1, 3), b"def").await;
    assert_eq!(raw.received().await, [], "once is enough");
}

#[tokio::test]
async fn abandoned_stream_is_forgotten_when_it_ends() {
    for end in [fin(1), rst(1)] {
        let mut raw = Raw::new(Role::Server, Config::default());
        let mut stream = raw.stream(1).await;
        soon(stream.close()).await.unwrap();
        drop(stream);
        raw.send(end, &[]).await;
        raw.send(Header::data(1, 3), b"abc").await;
        assert_eq!(raw.received().await, [fin(1)]);
        raw.stream(1).await;
    }
}

#[tokio::test]
async fn stream_with_unread_data_is_reset_instead_of_abandoned() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    raw.send(Header::data(1, 3), b"abc").await;
    soon(stream.close()).await.unwrap();
    assert_eq!(raw.received().await, [fin(1)]);
    drop(stream);
    assert_eq!(raw.received().await, [rst(1)]);
}

#[tokio::test]
async fn stream_with_a_partial_payload_is_reset_instead_of_abandoned() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    soon(stream.close()).await.unwrap();
    assert_eq!(raw.received().await, [fin(1)]);
    raw.send(Header::data(1, 5), b"ab").await;
    let mut two = [0; 2];
    soon(stream.read_exact(&mut two)).await.unwrap();
    drop(stream);
    assert_eq!(raw.receive().await.0, rst(1));
    soon(raw.socket.write_all(b"cde")).await.unwrap();
    assert_eq!(raw.received().await, []);
}

#[tokio::test]
async fn stream_with_a_pending_read_is_reset_instead_of_abandoned() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    soon(stream.close()).await.unwrap();
    assert_eq!(raw.received().await, [fin(1)]);
    assert!(poll_once(stream.read(&mut [0; 8])).is_pending());
    drop(stream);
    assert_eq!(raw.received().await, [rst(1)]);
}

#[tokio::test]
async fn queued_data_is_sent_before_the_reset() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    assert!(poll_once(stream.write(b"last words")).is_ready());
    drop(stream);
    let (data, payload) = raw.receive().await;
    assert_eq!(
        (data.kind, payload.as_slice()),
        (Kind::Data, &b"last words"[..])
    );
    assert_eq!(raw.receive().await.0, rst(1));
}

#[tokio::test]
async fn reset_wakes_reader_and_writer() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let (mut reader, mut writer) = raw.stream(1).await.split();
    let read = async { reader.read(&mut [0; 8]).await.unwrap_err().kind() };
    let write = async {
        writer
            .write_all(&vec![0; 500_000])
            .await
            .unwrap_err()
            .kind()
    };
    let reset = async {
        let mut received = 0;
        while received < super::super::INITIAL_WINDOW {
            received += raw.receive().await.0.length;
        }
        raw.send(rst(1), &[]).await;
    };
    let (read, write, ()) = soon(futures::future::join3(read, write, reset)).await;
    assert_eq!(read, ErrorKind::ConnectionReset);
    assert_eq!(write, ErrorKind::ConnectionReset);
}

/// The remote has read all data before it resets the stream: flushing it does not fail.
#[tokio::test]
async fn data_written_before_a_reset_counts_as_flushed() {
    let mut link = link().await;
    soon(link.a.write_all(b"answer")).await.unwrap();
    soon(link.b.read_exact(&mut [0; 6])).await.unwrap();
    drop(link.b);
    let (_, end) = read_all(&mut link.a).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    soon(link.a.flush()).await.unwrap();
    let closed = soon(link.a.close()).await;
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn bytes_before_a_reset_are_read() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    raw.send(Header::data(1, 3), b"abc").await;
    raw.send(rst(1), &[]).await;
    assert_eq!(raw.received().await, []);
    let (data, end) = read_all(&mut stream).await;
    assert_eq!(data, b"abc");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn flags_may_share_a_frame_with_data() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let whole = Header {
        flags: Flags::SYN | Flags::FIN,
        ..Header::data(1, 5)
    };
    raw.send(whole, b"whole").await;
    let mut stream = raw.peer.accept().await;
    let (data, end) = read_all(&mut stream).await;
    assert_eq!(data, b"whole");
    end.unwrap();
    let cut = Header {
        flags: Flags::RST,
        ..Header::data(1, 5)
    };
    raw.send(cut, b"never").await;
    assert_eq!(
        write_until_error(&mut stream).await,
        ErrorKind::ConnectionReset
    );
}

/// Asserts that after `kill` streams without FIN fail, and streams with FIN are complete.
async fn assert_unfinished_streams_abort(kill: impl AsyncFnOnce(Peer<Muxer<Socket>>)) {
    let (client, mut server) = pair();
    let mut sent = [client.open().await, client.open().await];
    let mut open = server.accept().await;
    let mut done = server.accept().await;
    for stream in &mut sent {
        soon(stream.write_all(b"data")).await.unwrap();
    }
    soon(sent[1].close()).await.unwrap();
    // All data has arrived once the first bytes of the second stream can be read.
    let mut byte = [0; 1];
    soon(done.read_exact(&mut byte)).await.unwrap();
    soon(open.read_exact(&mut byte)).await.unwrap();

    let (read, ()) = futures::join!(read_all(&mut open), kill(client));
    assert_eq!(read.0, b"ata");
    assert_eq!(read.1.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(
        write_until_error(&mut open).await,
        ErrorKind::ConnectionAborted
    );
    assert_eq!(
        open.close().await.unwrap_err().kind(),
        ErrorKind::ConnectionAborted
    );

    let (data, end) = read_all(&mut done).await;
    assert_eq!(data, b"ata");
    end.unwrap();

    let (_, end) = read_all(&mut sent[0]).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn lost_socket_aborts_unfinished_streams() {
    assert_unfinished_streams_abort(async |peer| drop(peer)).await;
}

#[tokio::test]
async fn closed_connection_aborts_unfinished_streams() {
    assert_unfinished_streams_abort(async |mut peer| peer.close().await.unwrap()).await;
}

#[tokio::test]
async fn close_sends_queued_data_and_then_goaway() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    assert!(poll_once(stream.write(b"queued")).is_ready());
    raw.peer.close().await.unwrap();
    assert_eq!(raw.receive().await.1, b"queued");
    assert_eq!(raw.receive().await.0, Header::go_away(GoAway::Normal));
    let mut rest = Vec::new();
    soon(raw.socket.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn goaway_keeps_streams_and_refuses_new_ones() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    raw.send(Header::go_away(GoAway::Normal), &[]).await;
    assert_eq!(raw.received().await, []);

    let mut refused = raw.peer.open().await;
    assert_eq!(
        refused.write_all(b"x").await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    drop(refused);
    assert_eq!(raw.received().await, []);

    raw.send(Header::data(1, 2), b"on").await;
    raw.send(fin(1), &[]).await;
    let (data, end) = read_all(&mut stream).await;
    assert_eq!(data, b"on");
    end.unwrap();
}
