//! Drains, closes and crashes.

use futures::future::join_all;
use quinn::ConnectionError;

use super::*;

/// Sends data over a new stream and receives its echo.
async fn exchange(connection: &quinn::Connection) {
    let (mut send, mut recv) = within(connection.open_bi()).await.unwrap();
    let data = pattern(100_000);
    send.write_all(&data).await.unwrap();
    send.finish().unwrap();
    let answer = within(recv.read_to_end(data.len())).await.unwrap();
    assert!(answer == data);
}

#[tokio::test]
async fn removed_listener_refuses_new_connections_and_keeps_established_ones() {
    let mut server = Server::start().await;
    let (ours, theirs) = server.pair().await;
    let mut echoing = JoinSet::new();
    echoing.spawn(echo(ours));
    exchange(&theirs).await;
    let (mut send, mut recv) = theirs.open_bi().await.unwrap();
    send.write_all(b"before").await.unwrap();

    server.remove.send(()).await.unwrap();
    assert!(matches!(server.next().await, ServerEvent::Closed(Ok(()))));

    let endpoint = client();
    let refusals = (0..200).map(|_| endpoint.connect(server.socket(), "any").unwrap());
    // A timeout of the handshake would take longer than this.
    let refusals = tokio::time::timeout(Duration::from_secs(5), join_all(refusals));
    for refusal in refusals.await.expect("answers at once") {
        assert_refused(&refusal.expect_err("a refusal"));
    }

    // The existing stream, and a new one.
    send.write_all(b" and after").await.unwrap();
    send.finish().unwrap();
    let answer = within(recv.read_to_end(100)).await.unwrap();
    assert_eq!(answer, b"before and after");
    exchange(&theirs).await;
}

#[tokio::test]
async fn handle_closes_a_listener_and_its_connections() {
    let mut server = Server::start().await;
    let (_ours, theirs) = server.pair().await;
    server.handle.close_all(9);
    assert_eq!(code(&within(theirs.closed()).await), 9);
    within(server.handle.wait_idle()).await;
    let closed = server.next().await;
    assert!(matches!(
        closed,
        ServerEvent::Closed(Err(Error::EndpointStopped))
    ));
}

#[tokio::test]
async fn handle_closes_dials() {
    for port_use in [PortUse::Reuse, PortUse::New] {
        let mut server = Server::start().await;
        let config = Config::new(&Keypair::generate_ed25519());
        let handle = config.handle();
        let mut transport = QuicTransport::new(config).unwrap();
        let opts = DialOpts {
            port_use,
            ..AS_DIALER
        };
        let dial = transport.dial(server.addr.clone(), opts).unwrap();
        let late = transport.dial(server.addr.clone(), opts).unwrap();
        let (dialled, mut accepted) = tokio::join!(within(dial), server.connection());
        let _dialled = dialled.unwrap();

        handle.close_all(9);
        let lost = within(poll_fn(|cx| accepted.poll_unpin(cx))).await;
        assert_eq!(code(&lost.unwrap_err()), 9);
        within(handle.wait_idle()).await;
        // A dial that is polled after the close fails.
        assert!(within(late).await.is_err());
    }
}

/// The error code of the peer's application.
fn code(error: &ConnectionError) -> u64 {
    match error {
        ConnectionError::ApplicationClosed(close) => close.error_code.into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unanswered_dial_times_out() {
    let silent = udp();
    let mut config = Config::new(&Keypair::generate_ed25519());
    config.handshake_timeout = Duration::from_millis(100);
    let mut transport = QuicTransport::new(config).unwrap();
    let addr = address::format(silent.local_addr().unwrap());
    let error = within(transport.dial(addr, AS_DIALER).unwrap()).await.err();
    assert!(matches!(error, Some(Error::HandshakeTimeout)), "{error:?}");
}

/// By a stateless reset, long before their idle timeout.
#[test]
fn clients_of_a_restarted_relay_are_reset() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let keypair = Keypair::generate_ed25519();
    let clients = runtime();
    let crashing = runtime();

    let mut server = crashing.block_on(Server::with(&keypair, LOOPBACK, |_| ()));
    let connecting = {
        let _guard = clients.enter();
        client().connect(server.socket(), "any").unwrap()
    };
    let ours = crashing.block_on(server.connection());
    let theirs = clients.block_on(within(connecting)).unwrap();
    let addr = server.addr.to_string();
    // Without its tasks, no close frame is sent.
    crashing.shutdown_timeout(Duration::from_secs(20));
    drop((server, ours));

    clients.block_on(async {
        let _restarted = Server::with(&keypair, &addr, |_| ()).await;
        // Any packet will do; a late acknowledgement may even have been answered before.
        if let Ok((mut send, _recv)) = theirs.open_bi().await {
            send.write_all(&pattern(1000)).await.ok();
        }
        assert_eq!(within(theirs.closed()).await, ConnectionError::Reset);
    });
}
