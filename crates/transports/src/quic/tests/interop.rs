//! The same exchanges in all pairings with libp2p's QUIC transport.

use futures::StreamExt;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::swarm::SwarmEvent;
use libp2p::{Swarm, ping};

use super::*;

type Stock = libp2p::quic::tokio::Transport;

fn stock(keypair: &Keypair) -> Stock {
    Stock::new(libp2p::quic::Config::new(keypair))
}

/// A listener of libp2p's transport, and a task that echoes on all of its connections.
async fn stock_echo() -> (Multiaddr, PeerId, JoinSet<()>) {
    let keypair = Keypair::generate_ed25519();
    let mut transport = stock(&keypair);
    transport
        .listen_on(ListenerId::next(), LOOPBACK.parse().unwrap())
        .unwrap();
    let addr = match poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await {
        TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
        other => panic!("{other:?}"),
    };
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let event = poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await;
            if let TransportEvent::Incoming { upgrade, .. } = event {
                let (_, muxer) = upgrade.await.unwrap();
                echo(muxer).await;
            }
        }
    });
    (addr, keypair.public().to_peer_id(), task)
}

/// Exchanges data with an echo, over one stream and over many at once.
async fn exchange<M>(mut muxer: M)
where
    M: StreamMuxer + Unpin,
    M::Substream: Send + Unpin + 'static,
{
    // Several MiB, many times all windows.
    let data = Arc::new(pattern(4 * 1024 * 1024));
    let (mut read, mut write) = outbound(&mut muxer).await.split();
    let question = data.clone();
    let ask = async move {
        write.write_all(&question).await.unwrap();
        // The other direction continues after this one is finished.
        write.close().await.unwrap();
    };
    let mut got = Vec::new();
    let (received, ()) = within(async { tokio::join!(read.read_to_end(&mut got), ask) }).await;
    received.unwrap();
    assert!(got == *data);

    // Many streams at once, each with its own data.
    let mut streams = JoinSet::new();
    for n in 0..100 {
        let mut stream = outbound(&mut muxer).await;
        streams.spawn(async move {
            let data = pattern(1000 + n);
            stream.write_all(&data).await.unwrap();
            stream.close().await.unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, data);
        });
    }
    within(streams.join_all()).await;
    within(muxer.close()).await.unwrap();
}

#[tokio::test]
async fn stock_dials_us() {
    let mut server = Server::start().await;
    let keypair = Keypair::generate_ed25519();
    let mut client = stock(&keypair);
    let dial = client.dial(server.addr.clone(), AS_DIALER).unwrap();
    let (dialled, accepted) = tokio::join!(within(dial), server.next());
    let (peer, muxer) = dialled.unwrap();
    let ServerEvent::Connected(from, ours) = accepted else {
        panic!("no connection")
    };
    assert_eq!(peer, server.peer);
    assert_eq!(from, keypair.public().to_peer_id());
    tokio::join!(exchange(muxer), within(echo(ours)));
}

#[tokio::test]
async fn we_dial_stock() {
    for port_use in [PortUse::Reuse, PortUse::New] {
        let (addr, peer, _task) = stock_echo().await;
        let mut client = QuicTransport::new(Config::new(&Keypair::generate_ed25519())).unwrap();
        let opts = DialOpts {
            port_use,
            ..AS_DIALER
        };
        let addr = addr.with_p2p(peer).unwrap();
        let (got, muxer) = within(client.dial(addr, opts).unwrap()).await.unwrap();
        assert_eq!(got, peer);
        exchange(muxer).await;
    }
}

#[tokio::test]
async fn we_dial_ourselves() {
    let mut server = Server::start().await;
    let mut client = QuicTransport::new(Config::new(&Keypair::generate_ed25519())).unwrap();
    let dial = client.dial(server.addr.clone(), AS_DIALER).unwrap();
    let (dialled, ours) = tokio::join!(within(dial), server.connection());
    let (peer, muxer) = dialled.unwrap();
    assert_eq!(peer, server.peer);
    tokio::join!(exchange(muxer), within(echo(ours)));
}

#[tokio::test]
async fn stock_reads_a_reset_from_a_dropped_stream() {
    let mut server = Server::start().await;
    let keypair = Keypair::generate_ed25519();
    let mut client = stock(&keypair);
    let dial = client.dial(server.addr.clone(), AS_DIALER).unwrap();
    let (dialled, mut ours) = tokio::join!(within(dial), server.connection());
    let (_, mut muxer) = dialled.unwrap();

    let mut theirs = outbound(&mut muxer).await;
    theirs.write_all(b"?").await.unwrap();
    let mut stream = within(inbound(&mut ours)).await.unwrap();
    stream.write_all(b"half an ans").await.unwrap();
    drop(stream);

    let error = within(theirs.read_to_end(&mut Vec::new())).await;
    assert_eq!(
        error.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn unexpected_peer_is_rejected() {
    let (addr, _, _task) = stock_echo().await;
    let stranger = Keypair::generate_ed25519().public().to_peer_id();
    let mut client = QuicTransport::new(Config::new(&Keypair::generate_ed25519())).unwrap();
    let addr = addr.with_p2p(stranger).unwrap();
    let error = within(client.dial(addr, AS_DIALER).unwrap()).await.err();
    assert!(
        matches!(
            &error,
            Some(Error::Connection(quinn::ConnectionError::TransportError(_)))
        ),
        "{error:?}"
    );
}

/// A swarm with `transport`.
fn swarm<T>(keypair: &Keypair, transport: T) -> Swarm<ping::Behaviour>
where
    T: libp2p::core::Transport<Output = (PeerId, StreamMuxerBox)> + Send + Unpin + 'static,
    T::Error: Send + Sync,
    T::Dial: Send,
    T::ListenerUpgrade: Send,
{
    let config = ping::Config::new().with_interval(Duration::from_millis(10));
    Swarm::new(
        transport.boxed(),
        ping::Behaviour::new(config),
        keypair.public().to_peer_id(),
        libp2p::swarm::Config::with_tokio_executor(),
    )
}

#[tokio::test]
async fn swarms_ping_each_other() {
    let keypair = Keypair::generate_ed25519();
    let ours = QuicTransport::new(Config::new(&keypair)).unwrap();
    let mut ours = swarm(
        &keypair,
        ours.map(|(peer, c), _| (peer, StreamMuxerBox::new(c))),
    );
    let keypair = Keypair::generate_ed25519();
    let theirs = stock(&keypair);
    let mut theirs = swarm(
        &keypair,
        theirs.map(|(peer, c), _| (peer, StreamMuxerBox::new(c))),
    );

    ours.listen_on(LOOPBACK.parse().unwrap()).unwrap();
    let (mut our_pings, mut their_pings) = (0, 0);
    within(async {
        while our_pings < 3 || their_pings < 3 {
            tokio::select! {
                event = ours.select_next_some() => match event {
                    SwarmEvent::NewListenAddr { address, .. } => theirs.dial(address).unwrap(),
                    SwarmEvent::Behaviour(ping) => our_pings += u32::from(ping.result.is_ok()),
                    SwarmEvent::ConnectionClosed { cause, .. } => panic!("{cause:?}"),
                    _ => {}
                },
                event = theirs.select_next_some() => {
                    if let SwarmEvent::Behaviour(ping) = event {
                        their_pings += u32::from(ping.result.is_ok());
                    }
                }
            }
        }
    })
    .await;
}
