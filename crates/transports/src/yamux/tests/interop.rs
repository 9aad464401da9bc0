//! Interoperability with the `yamux` crate, in both roles.

use futures::{AsyncReadExt as _, future::join_all};

use super::*;

/// Sends `len` bytes over each of `streams` streams from `opener`, echoes them by `acceptor`, and
/// compares.
async fn echo<A, B>(opener: &Peer<A>, acceptor: &mut Peer<B>, streams: u32, len: usize)
where
    A: StreamMuxer<Substream: Send + Unpin + 'static, Error: Send + 'static>
        + Send
        + Unpin
        + 'static,
    B: StreamMuxer<Substream: Send + Unpin + 'static, Error: Send + 'static>
        + Send
        + Unpin
        + 'static,
{
    let clients = join_all((0..streams).map(|seed| async move {
        let data = pattern(len, seed + 1);
        let (mut reader, mut writer) = opener.open().await.split();
        let write = async {
            writer.write_all(&data).await.unwrap();
            writer.close().await.unwrap();
        };
        let ((), (back, end)) = futures::join!(write, read_all(&mut reader));
        end.unwrap();
        assert!(back == data, "{} of {len} bytes came back", back.len());
    }));
    let servers = async {
        let mut echoes = JoinSet::new();
        for _ in 0..streams {
            let (reader, mut writer) = acceptor.accept().await.split();
            echoes.spawn(async move {
                futures::io::copy(reader, &mut writer).await.unwrap();
                writer.close().await.unwrap();
            });
        }
        while let Some(done) = echoes.join_next().await {
            done.unwrap();
        }
    };
    soon(futures::future::join(clients, servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_client_of_the_crate() {
    let (a, b) = sockets();
    let mut us = Peer::new(ours(a, Role::Client));
    let mut them = Peer::new(theirs(b, Role::Server));
    echo(&us, &mut them, 3, 3_000_000).await;
    echo(&them, &mut us, 3, 3_000_000).await;
    echo(&us, &mut them, 200, 10_000).await;
    echo(&them, &mut us, 200, 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_server_of_the_crate() {
    let (a, b) = sockets();
    let mut us = Peer::new(ours(a, Role::Server));
    let mut them = Peer::new(theirs(b, Role::Client));
    echo(&us, &mut them, 3, 3_000_000).await;
    echo(&them, &mut us, 3, 3_000_000).await;
    echo(&us, &mut them, 200, 10_000).await;
    echo(&them, &mut us, 200, 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_itself() {
    let (mut client, mut server) = pair();
    echo(&client, &mut server, 4, 3_000_000).await;
    echo(&server, &mut client, 300, 10_000).await;
}

#[tokio::test]
async fn crate_reads_all_of_a_closed_and_dropped_stream() {
    let (a, b) = sockets();
    let us = Peer::new(ours(a, Role::Client));
    let mut them = Peer::new(theirs(b, Role::Server));
    let data = pattern(200_000, 1);
    let mut stream = us.open().await;
    soon(stream.write_all(&data)).await.unwrap();
    soon(stream.close()).await.unwrap();
    drop(stream);
    let mut stream = them.accept().await;
    let (read, end) = read_all(&mut stream).await;
    end.unwrap();
    assert!(read == data);
}

#[tokio::test]
async fn stream_closed_and_dropped_by_the_crate_is_complete() {
    let (a, b) = sockets();
    let mut us = Peer::new(ours(a, Role::Server));
    let them = Peer::new(theirs(b, Role::Client));
    let data = pattern(200_000, 2);
    let mut stream = them.open().await;
    soon(stream.write_all(&data)).await.unwrap();
    soon(stream.close()).await.unwrap();
    drop(stream);
    let mut stream = us.accept().await;
    let (read, end) = read_all(&mut stream).await;
    end.unwrap();
    assert!(read == data);
}

#[tokio::test]
async fn stream_dropped_by_the_crate_is_reset() {
    let (a, b) = sockets();
    let mut us = Peer::new(ours(a, Role::Server));
    let them = Peer::new(theirs(b, Role::Client));
    let mut stream = them.open().await;
    soon(stream.write_all(b"unfinished")).await.unwrap();
    let mut accepted = us.accept().await;
    drop(stream);
    let (data, end) = read_all(&mut accepted).await;
    assert_eq!(data, b"unfinished");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn crate_cannot_write_to_a_dropped_stream() {
    let (a, b) = sockets();
    let us = Peer::new(ours(a, Role::Client));
    let mut them = Peer::new(theirs(b, Role::Server));
    let mut mine = us.open().await;
    soon(mine.write_all(b"hello")).await.unwrap();
    let mut yours = them.accept().await;
    drop(mine);
    write_until_error(&mut yours).await;
}
