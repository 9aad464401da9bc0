//! The transport against libp2p's QUIC transport and against plain quinn.

mod flow_control;
mod interop;
mod lifecycle;
mod listening;
mod offload;
mod quinn_yield;
mod send_window;
mod streams;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerExt};
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, Transport as _};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Config, Connection, Error, Handle, QuicTransport, address};

const LOOPBACK: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const AS_DIALER: DialOpts = DialOpts {
    role: Endpoint::Dialer,
    port_use: PortUse::Reuse,
};

/// An event of a [`Server`].
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
enum ServerEvent {
    Address(Multiaddr),
    Connected(PeerId, Connection),
    Failed(Error),
    Closed(Result<(), Error>),
}

/// Our transport with a listener, polled in a separate task.
struct Server {
    peer: PeerId,
    addr: Multiaddr,
    handle: Handle,
    events: mpsc::Receiver<ServerEvent>,
    remove: mpsc::Sender<()>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        Self::with(&Keypair::generate_ed25519(), LOOPBACK, |_| ()).await
    }

    async fn with(keypair: &Keypair, addr: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(keypair);
        configure(&mut config);
        let handle = config.handle();
        let mut transport = QuicTransport::new(config).unwrap();
        let id = ListenerId::next();
        transport.listen_on(id, addr.parse().unwrap()).unwrap();

        let (sender, mut events) = mpsc::channel(1024);
        let (remove, removals) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(serve(transport, id, sender, removals));
        let Some(ServerEvent::Address(addr)) = events.recv().await else {
            panic!("no address");
        };
        Self {
            peer: keypair.public().to_peer_id(),
            addr,
            handle,
            events,
            remove,
            _task: task,
        }
    }

    fn socket(&self) -> SocketAddr {
        address::parse(&self.addr).unwrap().0
    }

    async fn next(&mut self) -> ServerEvent {
        within(self.events.recv()).await.unwrap()
    }

    async fn connection(&mut self) -> Connection {
        loop {
            match self.next().await {
                ServerEvent::Connected(_, connection) => return connection,
                // Another address of an unspecified one.
                ServerEvent::Address(_) => {}
                ServerEvent::Failed(error) | ServerEvent::Closed(Err(error)) => panic!("{error}"),
                ServerEvent::Closed(Ok(())) => panic!("not a connection"),
            }
        }
    }

    /// A connection from plain quinn, and its remote end.
    async fn pair(&mut self) -> (Connection, quinn::Connection) {
        let connecting = client().connect(self.socket(), "any").unwrap();
        let (ours, theirs) = tokio::join!(self.connection(), within(connecting));
        (ours, theirs.unwrap())
    }
}

async fn serve(
    mut transport: QuicTransport,
    id: ListenerId,
    sender: mpsc::Sender<ServerEvent>,
    mut removals: mpsc::Receiver<()>,
) {
    let mut upgrades = JoinSet::new();
    loop {
        let event = tokio::select! {
            event = poll_fn(|cx| Pin::new(&mut transport).poll(cx)) => event,
            Some(()) = removals.recv() => {
                assert!(transport.remove_listener(id));
                assert!(!transport.remove_listener(id));
                continue;
            }
        };
        let event = match event {
            TransportEvent::Incoming { upgrade, .. } => {
                let sender = sender.clone();
                upgrades.spawn(async move {
                    let event = match upgrade.await {
                        Ok((peer, connection)) => ServerEvent::Connected(peer, connection),
                        Err(error) => ServerEvent::Failed(error),
                    };
                    sender.send(event).await.ok();
                });
                continue;
            }
            TransportEvent::NewAddress { listen_addr, .. } => ServerEvent::Address(listen_addr),
            TransportEvent::ListenerClosed { reason, .. } => ServerEvent::Closed(reason),
            TransportEvent::ListenerError { error, .. } => ServerEvent::Failed(error),
            TransportEvent::AddressExpired { .. } => continue,
        };
        sender.send(event).await.ok();
    }
}

/// Fails a test that would wait indefinitely.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

/// Plain quinn with libp2p's TLS, for dialling IPv4 addresses.
fn client() -> quinn::Endpoint {
    endpoint(client_config())
}

fn client_with(tls: quinn::rustls::ClientConfig) -> quinn::Endpoint {
    endpoint(config_with(tls))
}

fn endpoint(config: quinn::ClientConfig) -> quinn::Endpoint {
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

fn client_config() -> quinn::ClientConfig {
    let tls = libp2p::tls::make_client_config(&Keypair::generate_ed25519(), None).unwrap();
    config_with(tls)
}

fn config_with(tls: quinn::rustls::ClientConfig) -> quinn::ClientConfig {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    quinn::ClientConfig::new(Arc::new(crypto))
}

/// Echoes all data on every stream, until the connection ends.
async fn echo<M>(mut muxer: M)
where
    M: StreamMuxer + Unpin,
    M::Substream: Send + Unpin + 'static,
{
    let mut streams = JoinSet::new();
    while let Some(stream) = inbound(&mut muxer).await {
        streams.spawn(async move {
            let (read, mut write) = stream.split();
            futures::io::copy(read, &mut write).await.ok();
            write.close().await.ok();
        });
    }
}

/// The next stream, or `None` when the connection has ended.
async fn inbound<M: StreamMuxer + Unpin>(muxer: &mut M) -> Option<M::Substream> {
    poll_fn(|cx| {
        // Ignores changes of address.
        while let Poll::Ready(Ok(_)) = muxer.poll_unpin(cx) {}
        muxer.poll_inbound_unpin(cx).map(Result::ok)
    })
    .await
}

async fn outbound<M: StreamMuxer + Unpin>(muxer: &mut M) -> M::Substream {
    within(poll_fn(|cx| muxer.poll_outbound_unpin(cx)))
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

fn assert_refused(error: &quinn::ConnectionError) {
    let quinn::ConnectionError::ConnectionClosed(close) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        close.error_code,
        quinn::TransportErrorCode::CONNECTION_REFUSED
    );
}

/// Bytes in which lost or repeated parts are detectable.
fn pattern(len: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes())
        .take(len)
        .collect()
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}
