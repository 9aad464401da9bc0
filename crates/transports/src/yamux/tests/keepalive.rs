//! Unresponsive remotes are disconnected, idle ones are not.

use tokio::time::Instant;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Waits for the next frame of our connection, without a timeout: a keepalive ping.
async fn next_ping(raw: &mut Raw) -> Header {
    let mut header = [0; HEADER_LEN];
    raw.socket.read_exact(&mut header).await.unwrap();
    Header::decode(header).unwrap()
}

/// Whether `waited` is `due`, within the interval of the timer coalescing.
fn is_about(due: Duration, waited: Duration) -> bool {
    due.abs_diff(waited) <= Duration::from_secs(1)
}

#[tokio::test(start_paused = true)]
async fn unresponsive_remote_is_disconnected() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let began = Instant::now();
    assert_eq!(next_ping(&mut raw).await, Header::ping(1));
    assert_eq!(next_ping(&mut raw).await, Header::ping(2));
    let end = raw.peer.task.join_next().await.unwrap().unwrap();
    assert!(matches!(end, Err(Error::Unresponsive)), "{end:?}");
    let waited = began.elapsed();
    assert!(is_about(3 * MINUTE, waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn idle_remote_is_pinged_every_minute() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let began = Instant::now();
    for minute in 1..20 {
        assert_eq!(next_ping(&mut raw).await, Header::ping(1));
        let waited = began.elapsed();
        assert!(is_about(minute * MINUTE, waited), "{minute}: {waited:?}");
        raw.send(Header::pong(1), &[]).await;
    }
}

/// A part of a payload counts as a sign of life.
#[tokio::test(start_paused = true)]
async fn sending_remote_is_not_pinged() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    raw.send(Header::data(1, 100), &[]).await;
    for _ in 0..20 {
        raw.socket.write_all(&[7]).await.unwrap();
        soon(stream.read_exact(&mut [0])).await.unwrap();
        tokio::time::sleep(MINUTE * 2 / 3).await;
    }
    raw.socket.write_all(&[7; 80]).await.unwrap();
    assert_eq!(raw.received().await, []);
}

/// The remote sends all the time, and reads nothing of what is queued for it.
#[tokio::test(start_paused = true)]
async fn non_reading_remote_is_disconnected() {
    let mut raw = Raw::new(Role::Server, Config::default());
    let mut stream = raw.stream(1).await;
    let began = Instant::now();
    let mut writer = JoinSet::new();
    writer.spawn(async move { while stream.write_all(&[7; 10_000]).await.is_ok() {} });
    let (mut receiver, mut sender) = raw.socket.split();
    let sending = async {
        loop {
            let frame = Header::window_update(1, Flags::NONE, 1).encode();
            sender.write_all(&frame).await.unwrap();
            tokio::time::sleep(MINUTE / 2).await;
        }
    };
    let end = tokio::select! {
        end = raw.peer.task.join_next() => end.unwrap().unwrap(),
        () = sending => unreachable!(),
    };
    assert!(matches!(end, Err(Error::Unresponsive)), "{end:?}");
    let waited = began.elapsed();
    assert!(is_about(4 * MINUTE, waited), "{waited:?}");
    writer.join_next().await.unwrap().unwrap();
    assert_ne!(receiver.read(&mut [0; 12]).await.unwrap(), 0);
}

/// The `yamux` crate sends nothing on an idle connection except replies to pings.
#[tokio::test(start_paused = true)]
async fn yamux_crate_answers_keepalive_pings() {
    let (near, far) = sockets();
    let mut near = Peer::new(ours(near, Role::Server));
    let far = Peer::new(theirs(far, Role::Client));
    tokio::time::sleep(60 * MINUTE).await;
    let mut stream = far.open().await;
    stream.write_all(b"still there").await.unwrap();
    stream.flush().await.unwrap();
    near.accept().await;
}
