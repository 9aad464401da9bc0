//! A client that sends hop and stop messages itself and exposes the circuit's streams: no encryption or
//! multiplexing inside the circuit, and arbitrary bytes instead of requests.

use std::{error::Error, io, time::Duration};

use circuit_relay::wire::{
    self, HOP_PROTOCOL, HopMessage, HopType, Peer, STOP_PROTOCOL, Status, StopMessage, StopType,
};
use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, Transport as _,
    core::upgrade::Version,
    identity::Keypair,
    noise,
    swarm::{DialError, SwarmEvent},
    tcp, websocket, yamux,
};
use libp2p_stream::{self as stream, OpenStreamError};
use prost::Message;
use tokio::{task::JoinHandle, time::timeout};

use crate::PATIENCE;

/// The stream implementation of a client.
#[derive(Clone, Copy, Debug, Default)]
pub enum Streams {
    /// libp2p's defaults.
    #[default]
    Usual,
    /// Over TCP, the relay's yamux, which reports resets. libp2p's yamux reports them as the end of the
    /// stream.
    ReportsResets,
    /// libp2p's defaults, with a QUIC receive window of this many bytes.
    SmallWindow(u32),
}

/// A client with one connection, which is closed on drop.
pub struct Raw {
    pub peer_id: PeerId,
    relay: PeerId,
    streams: stream::Control,
    stops: stream::IncomingStreams,
    swarm: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.swarm.abort();
    }
}

impl Raw {
    /// A new peer that is connected to the relay at `address`.
    pub async fn new(address: &Multiaddr) -> Self {
        Self::with_key(Keypair::generate_ed25519(), address).await
    }

    /// The peer with this key, connected to the relay at `address`.
    pub async fn with_key(key: Keypair, address: &Multiaddr) -> Self {
        Self::start(swarm(key, Streams::default()), address).await
    }

    /// A new peer with this stream implementation, connected to the relay at `address`.
    pub async fn with_streams(streams: Streams, address: &Multiaddr) -> Self {
        Self::start(swarm(Keypair::generate_ed25519(), streams), address).await
    }

    /// A new peer. Fails if the relay at `address` rejects the connection.
    pub async fn try_new(address: &Multiaddr) -> Result<Self, DialError> {
        let swarm = swarm(Keypair::generate_ed25519(), Streams::default());
        Self::try_start(swarm, address).await
    }

    /// As [`Self::try_new`], with this stream implementation.
    pub async fn try_with_streams(
        streams: Streams,
        address: &Multiaddr,
    ) -> Result<Self, DialError> {
        Self::try_start(swarm(Keypair::generate_ed25519(), streams), address).await
    }

    async fn start(swarm: Swarm<stream::Behaviour>, address: &Multiaddr) -> Self {
        let started = Self::try_start(swarm, address).await;
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_start(
        mut swarm: Swarm<stream::Behaviour>,
        address: &Multiaddr,
    ) -> Result<Self, DialError> {
        let mut streams = swarm.behaviour().new_control();
        let stops = streams.accept(STOP_PROTOCOL).unwrap();
        let peer_id = *swarm.local_peer_id();
        swarm.dial(address.clone()).unwrap();
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
                    SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error),
                    _ => {}
                }
            }
        };
        let relay = timeout(PATIENCE, connected).await.unwrap()?;
        let swarm = tokio::task::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Ok(Self {
            peer_id,
            relay,
            streams,
            stops,
            swarm,
        })
    }

    /// A stream to the relay for any protocol. Fails if the relay resets it.
    pub async fn open(&mut self, protocol: StreamProtocol) -> Result<Stream, OpenStreamError> {
        let stream = self.streams.open_stream(self.relay, protocol);
        timeout(PATIENCE, stream).await.unwrap()
    }

    /// A hop stream without a request.
    pub async fn hop(&mut self) -> Stream {
        self.open(HOP_PROTOCOL).await.unwrap()
    }

    /// Opens a hop stream, sends these bytes, and returns the response.
    pub async fn request(&mut self, bytes: &[u8]) -> (HopMessage, Stream) {
        let mut stream = self.hop().await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let answer = timeout(PATIENCE, wire::read(&mut stream)).await;
        (answer.unwrap().unwrap(), stream)
    }

    /// Requests a reservation.
    pub async fn reserve(&mut self) -> HopMessage {
        self.request(&reserve()).await.0
    }

    /// Requests a circuit to `target`.
    pub async fn connect(&mut self, target: PeerId) -> (HopMessage, Stream) {
        self.request(&connect(&target.to_bytes())).await
    }

    /// A handle for requests on this connection from other tasks.
    pub fn requester(&self) -> Requester {
        Requester {
            relay: self.relay,
            streams: self.streams.clone(),
        }
    }

    /// The next stop stream, with its request unread; `None` after the connection has ended.
    pub async fn next_stop(&mut self) -> Option<Stream> {
        self.stops.next().await.map(|(_, stream)| stream)
    }

    /// The next stop stream, with its request unread.
    pub async fn stop(&mut self) -> Stream {
        let stream = timeout(PATIENCE, self.stops.next()).await;
        stream.unwrap().unwrap().1
    }

    /// Accepts the next circuit. Returns the STOP request and the stream.
    pub async fn accept(&mut self) -> (StopMessage, Stream) {
        let mut stream = self.stop().await;
        let request = accept(&mut stream).await.unwrap();
        assert_eq!(request.kind, Some(StopType::Connect.into()));
        (request, stream)
    }
}

/// Sends requests on the connection of a [`Raw`]. Failures are errors, not panics.
#[derive(Clone)]
pub struct Requester {
    relay: PeerId,
    streams: stream::Control,
}

impl Requester {
    /// A stream to the relay for any protocol.
    pub async fn open(&mut self, protocol: StreamProtocol) -> io::Result<Stream> {
        let stream = self.streams.open_stream(self.relay, protocol).await;
        stream.map_err(io::Error::other)
    }

    /// Opens a hop stream and sends these bytes. Returns the stream after a response with status OK.
    pub async fn request(&mut self, bytes: &[u8]) -> io::Result<Stream> {
        let mut stream = self.open(HOP_PROTOCOL).await?;
        stream.write_all(bytes).await?;
        stream.flush().await?;
        let answer: HopMessage = wire::read(&mut stream).await.map_err(io::Error::other)?;
        match answer
            .status
            .and_then(|status| Status::try_from(status).ok())
        {
            Some(Status::Ok) => Ok(stream),
            other => Err(io::Error::other(format!("answered {other:?}"))),
        }
    }
}

/// Reads the request of a stop stream and accepts the circuit.
pub async fn accept(stream: &mut Stream) -> io::Result<StopMessage> {
    let request = wire::read(stream).await.map_err(io::Error::other)?;
    let ok = StopMessage {
        kind: Some(StopType::Status.into()),
        status: Some(Status::Ok.into()),
        ..StopMessage::default()
    };
    wire::write(stream, &ok).await.map_err(io::Error::other)?;
    Ok(request)
}

fn swarm(key: Keypair, streams: Streams) -> Swarm<stream::Behaviour> {
    let builder = SwarmBuilder::with_existing_identity(key).with_tokio();
    macro_rules! finish {
        ($yamux:expr) => {
            builder
                .with_tcp(tcp::Config::default(), noise::Config::new, $yamux)
                .unwrap()
                .with_quic_config(|mut config| {
                    if let Streams::SmallWindow(window) = streams {
                        config.max_stream_data = window;
                    }
                    config
                })
                .with_other_transport(|key| {
                    let tcp = tcp::tokio::Transport::new(tcp::Config::default());
                    let security = noise::Config::new(key)?;
                    Ok::<_, Box<dyn Error + Send + Sync>>(
                        websocket::Config::new(tcp)
                            .upgrade(Version::V1Lazy)
                            .authenticate(security)
                            .multiplex($yamux()),
                    )
                })
                .unwrap()
                .with_behaviour(|_| stream::Behaviour::new())
                .unwrap()
                .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
                .build()
        };
    }
    match streams {
        Streams::ReportsResets => finish!(transports::yamux::Config::default),
        Streams::Usual | Streams::SmallWindow(_) => finish!(yamux::Config::default),
    }
}

/// Two clients and the circuit between them.
pub struct Circuit {
    pub source: Raw,
    pub target: Raw,
    /// The source's end.
    pub near: Stream,
    /// The target's end.
    pub far: Stream,
    /// The relay's response to the source.
    pub answer: HopMessage,
    /// The relay's STOP request to the target.
    pub stop: StopMessage,
}

impl Circuit {
    /// Opens a circuit between two new clients of the relay at `address`.
    pub async fn open(address: &Multiaddr) -> Self {
        Self::between(Raw::new(address).await, Raw::new(address).await).await
    }

    /// Opens a circuit from `source` to `target`.
    pub async fn between(mut source: Raw, mut target: Raw) -> Self {
        assert_status(&target.reserve().await, Status::Ok);
        let id = target.peer_id;
        let connecting = async {
            let (answer, near) = source.connect(id).await;
            assert_status(&answer, Status::Ok);
            (answer, near)
        };
        let ((answer, near), (stop, far)) = tokio::join!(connecting, target.accept());
        Self {
            source,
            target,
            near,
            far,
            answer,
            stop,
        }
    }
}

/// An encoded RESERVE.
pub fn reserve() -> Vec<u8> {
    let message = HopMessage {
        kind: Some(HopType::Reserve.into()),
        ..HopMessage::default()
    };
    message.encode_length_delimited_to_vec()
}

/// An encoded CONNECT to this peer id, which may be any bytes.
pub fn connect(target: &[u8]) -> Vec<u8> {
    let message = HopMessage {
        kind: Some(HopType::Connect.into()),
        peer: Some(Peer {
            id: Some(target.to_vec()),
            addrs: Vec::new(),
        }),
        ..HopMessage::default()
    };
    message.encode_length_delimited_to_vec()
}

/// Asserts that `message` is a response with `status`.
#[track_caller]
pub fn assert_status(message: &HopMessage, status: Status) {
    assert_eq!(message.kind, Some(HopType::Status.into()), "{message:?}");
    assert_eq!(message.status, Some(status.into()), "{message:?}");
}

/// All remaining data, and how the stream ended.
pub async fn read_out(stream: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, async {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) => return Ok(()),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(error) => return Err(error),
            }
        }
    });
    let end = read.await.expect("the stream ends");
    (bytes, end)
}

/// A pattern in which losses and reordering are visible.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect()
}
