//! Reads with an empty buffer, which wait for the failure of a stream.

use std::io::ErrorKind;

use futures::FutureExt as _;

use super::*;
use futures_test::task::new_count_waker;

fn frame(flags: Flags) -> Header {
    Header {
        flags,
        ..Header::data(1, 0)
    }
}

#[tokio::test]
async fn reset_is_reported_before_remaining_data() {
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
async fn reset_after_the_end_is_reported() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    for (header, payload) in [(Header::data(1, 3), &b"abc"[..]), (frame(Flags::FIN), &[])] {
        assert!(stream.read(&mut []).now_or_never().is_none());
        raw.send(header, payload).await;
        assert_eq!(raw.received().await, []);
    }
    let watch = async { stream.read(&mut []).await.unwrap_err().kind() };
    let reset = raw.send(frame(Flags::RST), &[]);
    let (kind, ()) = soon(futures::future::join(watch, reset)).await;
    assert_eq!(kind, ErrorKind::ConnectionReset);
    // Ordinary reads still return all of the data.
    let (data, end) = read_all(&mut stream).await;
    assert_eq!(data, b"abc");
    end.unwrap();
}

#[tokio::test]
async fn lost_connection_after_the_end_leaves_the_data_complete() {
    let (client, mut server) = pair();
    let mut sent = client.open().await;
    soon(sent.write_all(b"abc")).await.unwrap();
    soon(sent.close()).await.unwrap();
    let mut stream = server.accept().await;
    let watch = async { stream.read(&mut []).await.unwrap_err().kind() };
    let lost = async { drop((client, sent)) };
    let (kind, ()) = soon(futures::future::join(watch, lost)).await;
    assert_eq!(kind, ErrorKind::BrokenPipe);
    let (data, end) = read_all(&mut stream).await;
    assert_eq!(data, b"abc");
    end.unwrap();
}

#[tokio::test]
async fn data_does_not_wake_the_task_that_waits_for_a_failure() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    let (waker, counter) = new_count_waker();
    let mut cx = Context::from_waker(&waker);
    let mut watch = |stream: &mut Substream| Pin::new(stream).poll_read(&mut cx, &mut []);
    assert!(watch(&mut stream).is_pending());
    raw.send(Header::data(1, 3), b"abc").await;
    assert_eq!(raw.received().await, []);
    assert_eq!(counter.get(), 0);
    raw.send(frame(Flags::RST), &[]).await;
    assert_eq!(raw.received().await, []);
    assert_eq!(counter.get(), 1);
    let Poll::Ready(Err(error)) = watch(&mut stream) else {
        panic!("the stream was reset");
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn lost_connection_is_reported_for_incomplete_data() {
    let (client, mut server) = pair();
    let mut sent = client.open().await;
    soon(sent.write_all(b"abc")).await.unwrap();
    let mut stream = server.accept().await;
    let watch = async { stream.read(&mut []).await.unwrap_err().kind() };
    let (kind, ()) = soon(futures::future::join(watch, async { drop(client) })).await;
    assert_eq!(kind, ErrorKind::ConnectionAborted);
}
