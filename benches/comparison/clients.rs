//! libp2p clients, and circuits between them that carry plain bytes. Hop and stop messages are sent by
//! the benchmark itself, so encryption between the clients is not measured.

use std::{convert::identity, time::Duration};

use circuit_relay::wire::{
    self, HOP_PROTOCOL, HopMessage, HopType, Peer, STOP_PROTOCOL, Status, StopMessage, StopType,
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, TryStreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, Swarm, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, upgrade::Version},
    },
    identify,
    identity::Keypair,
    noise, ping, quic,
    swarm::{self, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
    tcp, tls, yamux,
};
use libp2p_stream as stream;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Error, Result};

/// Timeout of a step, including steps with thousands of queued clients.
const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum number of concurrent connection attempts.
const CONNECTING: usize = 16;
/// Maximum number of attempts to connect: handshakes may time out on a busy machine.
const ATTEMPTS: usize = 3;

/// The transport and security protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Channel {
    Noise,
    Tls,
    Quic,
}

impl Channel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noise => "TCP + Noise",
            Self::Tls => "TCP + TLS",
            Self::Quic => "QUIC",
        }
    }

    /// The transport as libp2p's builder creates it, with default options.
    fn transport(self, key: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>> {
        let tcp = || tcp::tokio::Transport::new(tcp::Config::default()).upgrade(Version::V1Lazy);
        Ok(match self {
            Self::Noise => tcp()
                .authenticate(noise::Config::new(key)?)
                .multiplex(yamux::Config::default())
                .boxed(),
            Self::Tls => tcp()
                .authenticate(tls::Config::new(key)?)
                .multiplex(yamux::Config::default())
                .boxed(),
            Self::Quic => quic::tokio::Transport::new(quic::Config::new(key))
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                .boxed(),
        })
    }
}

/// The response to pings of the relay. Clients send no pings, so an idle relay only does its own work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pings {
    /// Pings are answered.
    Answered,
    /// The client does not support libp2p's ping protocol, which `descord-relay` does not use.
    Unknown,
}

/// The minimal behaviour of a relay's peer.
#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: stream::Behaviour,
    identify: identify::Behaviour,
    ping: Toggle<ping::Behaviour>,
}

/// A client with one connection and a reservation.
pub(crate) struct Client {
    peer_id: PeerId,
    relay: PeerId,
    streams: stream::Control,
    stops: stream::IncomingStreams,
    disconnecting: CancellationToken,
    swarm: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.swarm.abort();
    }
}

impl Client {
    /// A new peer that connects and reserves.
    pub(crate) async fn new(channel: Channel, relay: Multiaddr, pings: Pings) -> Result<Self> {
        let key = Keypair::generate_ed25519();
        let day = Duration::from_secs(24 * 60 * 60);
        let behaviour = Behaviour {
            streams: stream::Behaviour::new(),
            identify: identify::Behaviour::new(identify::Config::new(
                "ipfs/0.1.0".to_owned(),
                key.public(),
            )),
            ping: (pings == Pings::Answered)
                .then(|| ping::Behaviour::new(ping::Config::new().with_interval(day)))
                .into(),
        };
        let peer_id = key.public().to_peer_id();
        let settings = swarm::Config::with_tokio_executor().with_idle_connection_timeout(day);
        let mut swarm = Swarm::new(channel.transport(&key)?, behaviour, peer_id, settings);
        let mut streams = swarm.behaviour().streams.new_control();
        let stops = streams.accept(STOP_PROTOCOL)?;
        swarm.dial(relay)?;
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
                    SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error),
                    _ => {}
                }
            }
        };
        let relay = timeout(PATIENCE, connected).await??;
        let disconnecting = CancellationToken::new();
        let mut client = Self {
            peer_id,
            relay,
            streams,
            stops,
            swarm: tokio::task::spawn(run(swarm, relay, disconnecting.clone())),
            disconnecting,
        };
        client.reserve().await?;
        Ok(client)
    }

    /// `count` new clients, distributed over the relay's addresses.
    pub(crate) async fn many(
        count: usize,
        channel: Channel,
        relay: &[Multiaddr],
        pings: Pings,
    ) -> Result<Vec<Self>> {
        let addresses = relay.iter().cloned().cycle();
        futures::stream::iter(addresses.take(count))
            .map(|address| Self::new_with_retries(channel, address, pings))
            .map(|client| AbortOnDropHandle::new(tokio::task::spawn(client)))
            .buffer_unordered(CONNECTING)
            .map(|joined| joined.map_err(Error::from).and_then(identity))
            .try_collect()
            .await
    }

    async fn new_with_retries(channel: Channel, relay: Multiaddr, pings: Pings) -> Result<Self> {
        for _ in 1..ATTEMPTS {
            match Self::new(channel, relay.clone(), pings).await {
                Ok(client) => return Ok(client),
                Err(error) => eprintln!("retrying: {error}"),
            }
        }
        Self::new(channel, relay, pings).await
    }

    /// Requests or renews the reservation.
    pub(crate) async fn reserve(&mut self) -> Result<()> {
        let request = HopMessage {
            kind: Some(HopType::Reserve.into()),
            ..HopMessage::default()
        };
        self.request(&request).await?;
        Ok(())
    }

    async fn request(&mut self, request: &HopMessage) -> Result<Stream> {
        let answered = async {
            let mut stream = self.streams.open_stream(self.relay, HOP_PROTOCOL).await?;
            wire::write(&mut stream, request).await?;
            let answer: HopMessage = wire::read(&mut stream).await?;
            if answer.status != Some(Status::Ok.into()) {
                return Err(format!("the relay answers {:?}", answer.status).into());
            }
            Ok(stream)
        };
        timeout(PATIENCE, answered).await?
    }

    /// Opens a circuit to `target`. Returns the source's and the target's end.
    pub(crate) async fn connect(&mut self, target: &mut Self) -> Result<(Stream, Stream)> {
        let request = HopMessage {
            kind: Some(HopType::Connect.into()),
            peer: Some(Peer {
                id: Some(target.peer_id.to_bytes()),
                addrs: Vec::new(),
            }),
            ..HopMessage::default()
        };
        tokio::try_join!(self.request(&request), target.accept())
    }

    async fn accept(&mut self) -> Result<Stream> {
        let stop = timeout(PATIENCE, self.stops.next()).await?;
        let (_, mut stream) = stop.ok_or("the client has ended")?;
        let _: StopMessage = wire::read(&mut stream).await?;
        let accepted = StopMessage {
            kind: Some(StopType::Status.into()),
            status: Some(Status::Ok.into()),
            ..StopMessage::default()
        };
        wire::write(&mut stream, &accepted).await?;
        Ok(stream)
    }

    /// Closes all connections gracefully.
    pub(crate) async fn disconnect_all(clients: Vec<Self>) -> Result<()> {
        let disconnecting = futures::stream::iter(clients).map(|client| Ok(client.disconnect()));
        disconnecting
            .try_buffer_unordered(CONNECTING)
            .try_collect()
            .await
    }

    async fn disconnect(mut self) -> Result<()> {
        self.disconnecting.cancel();
        Ok(timeout(PATIENCE, &mut self.swarm).await??)
    }
}

async fn run(mut swarm: Swarm<Behaviour>, relay: PeerId, disconnecting: CancellationToken) {
    let serving = async {
        loop {
            swarm.select_next_some().await;
        }
    };
    let _: Option<()> = disconnecting.run_until_cancelled(serving).await;
    if swarm.disconnect_peer_id(relay).is_ok() {
        while swarm.is_connected(&relay) {
            swarm.select_next_some().await;
        }
    }
}

/// Closes both ends of a circuit gracefully.
pub(crate) async fn finish((mut near, mut far): (Stream, Stream)) -> Result<()> {
    let finished = async {
        tokio::try_join!(near.close(), far.close())?;
        let mut rest = [0];
        tokio::try_join!(near.read(&mut rest), async { far.read(&mut [0]).await })
    };
    match timeout(PATIENCE, finished).await?? {
        (0, 0) => Ok(()),
        _ => Err("a circuit has unexpected data".into()),
    }
}
