//! Drains, ends and crashes.

use quinn::ConnectionError;

use super::*;

/// Opens a stream and has it echoed.
async fn ask(connection: &quinn::Connection) {
    let (mut send, mut recv) = within(connection.open_bi()).await.unwrap();
    let data = pattern(100_000);
    send.write_all(&data).await.unwrap();
    send.finish().unwrap();
    let answer = within(recv.read_to_end(data.len())).await.unwrap();
    assert!(answer == data);
}

#[tokio::test]
async fn a_removed_listener_refuses_newcomers_and_keeps_its_connections() {
    let mut server = Server::start().await;
    let (ours, theirs) = server.pair().await;
    let mut echoing = JoinSet::new();
    echoing.spawn(echo(ours));
    ask(&theirs).await;
    let (mut send, mut recv) = theirs.open_bi().await.unwrap();
    send.write_all(b"before").await.unwrap();

    server.remove.send(()).await.unwrap();
    assert!(matches!(server.next().await, Told::Closed(Ok(()))));

    for _ in 0..3 {
        let newcomer = client().connect(server.socket(), "any").unwrap();
        let error = tokio::time::timeout(Duration::from_secs(1), newcomer)
            .await
            .expect("an answer at once")
            .expect_err("a refusal");
        let ConnectionError::ConnectionClosed(close) = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            close.error_code,
            quinn::TransportErrorCode::CONNECTION_REFUSED
        );
    }

    // A stream that was there, and new ones.
    send.write_all(b" and after").await.unwrap();
    send.finish().unwrap();
    let answer = within(recv.read_to_end(100)).await.unwrap();
    assert_eq!(answer, b"before and after");
    ask(&theirs).await;
}

#[tokio::test]
async fn the_handle_closes_everything_and_waits_for_it() {
    let mut server = Server::start().await;
    let (_ours, theirs) = server.pair().await;

    let mut transport = Transport::new(Config::new(&Keypair::generate_ed25519())).unwrap();
    let dials_handle = transport.config.handle();
    let opts = DialOpts {
        port_use: PortUse::New,
        ..AS_DIALER
    };
    let dial = transport.dial(server.addr.clone(), opts).unwrap();
    let (dialled, ours) = tokio::join!(within(dial), server.connection());
    let (_, mut dialled) = dialled.unwrap();

    dials_handle.close_all(8);
    within(dials_handle.wait_idle()).await;
    drop(ours);
    within(inbound(&mut dialled)).await.ok_or(()).err().unwrap();

    server.handle.close_all(9);
    let ConnectionError::ApplicationClosed(close) = within(theirs.closed()).await else {
        panic!("not closed by the application");
    };
    assert_eq!(close.error_code, 9_u8.into());
    within(server.handle.wait_idle()).await;
    assert!(matches!(
        server.next().await,
        Told::Closed(Err(Error::EndpointStopped))
    ));
}

#[tokio::test]
async fn a_dial_to_nobody_times_out() {
    let nobody = udp();
    let mut config = Config::new(&Keypair::generate_ed25519());
    config.handshake_timeout = Duration::from_millis(100);
    let mut transport = Transport::new(config).unwrap();
    let addr = address::format(nobody.local_addr().unwrap());
    let error = within(transport.dial(addr, AS_DIALER).unwrap()).await.err();
    assert!(matches!(error, Some(Error::HandshakeTimeout)), "{error:?}");
}

/// The client must not have to wait for its idle timeout to learn of a crash.
#[test]
fn clients_of_a_crashed_and_restarted_relay_learn_it_at_once() {
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
    let _ours = crashing.block_on(server.connection());
    let theirs = clients.block_on(within(connecting)).unwrap();
    let addr = server.addr.to_string();
    // No task runs any more that could say goodbye, and the socket is gone.
    crashing.shutdown_background();
    drop(server);

    clients.block_on(async {
        let _restarted = Server::with(&keypair, &addr, |_| ()).await;
        let (mut send, _recv) = theirs.open_bi().await.unwrap();
        send.write_all(&pattern(1000)).await.unwrap();
        assert_eq!(within(theirs.closed()).await, ConnectionError::Reset);
    });
}
