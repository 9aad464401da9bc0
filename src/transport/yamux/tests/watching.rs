//! Reading into no room: the question whether the stream will fail.

use std::io::ErrorKind;

use futures::FutureExt as _;

use super::*;

fn frame(flags: Flags) -> Header {
    Header {
        flags,
        ..Header::data(1, 0)
    }
}

#[tokio::test]
async fn a_reset_is_told_before_what_is_left_is_read() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    raw.send(Header::data(1, 3), b"abc").await;
    let watch = async { stream.read(&mut []).await.unwrap_err().kind() };
    let reset = async {
        assert_eq!(raw.received().await, []);
        raw.send(frame(Flags::RST), &[]).await;
    };
    let (kind, ()) = soon(futures::future::join(watch, reset)).await;
    assert_eq!(kind, ErrorKind::ConnectionReset);
    let (data, end) = read_all(&mut stream).await;
    assert_eq!(data, b"abc");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_complete_does_not_fail() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    for (header, payload) in [
        (Header::data(1, 3), &b"abc"[..]),
        (frame(Flags::FIN), &[]),
        (frame(Flags::RST), &[]),
    ] {
        assert!(stream.read(&mut []).now_or_never().is_none());
        raw.send(header, payload).await;
        assert_eq!(raw.received().await, []);
    }
    assert!(stream.read(&mut []).now_or_never().is_none());
    let (data, end) = read_all(&mut stream).await;
    assert_eq!(data, b"abc");
    end.unwrap();
}

#[tokio::test]
async fn a_lost_connection_is_told_of_what_is_not_complete() {
    let (client, mut server) = pair();
    let mut sent = client.open().await;
    soon(sent.write_all(b"abc")).await.unwrap();
    let mut stream = server.accept().await;
    let watch = async { stream.read(&mut []).await.unwrap_err().kind() };
    let (kind, ()) = soon(futures::future::join(watch, async { drop(client) })).await;
    assert_eq!(kind, ErrorKind::ConnectionAborted);
}
