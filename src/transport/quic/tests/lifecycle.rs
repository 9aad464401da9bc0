//! Drains, ends and crashes.

use futures::future::join_all;
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

    let newcomers = client();
    let refusals = (0..200).map(|_| newcomers.connect(server.socket(), "any").unwrap());
    // A timeout of the handshake would take longer than this.
    let refusals = tokio::time::timeout(Duration::from_secs(5), join_all(refusals));
    for refusal in refusals.await.expect("answers at once") {
        assert_refused(&refusal.expect_err("a refusal"));
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
    assert!(within(inbound(&mut dialled)).await.is_none());

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
    let ours = crashing.block_on(server.connection());
    let theirs = clients.block_on(within(connecting)).unwrap();
    let addr = server.addr.to_string();
    // With its tasks gone, nobody can say goodbye.
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
