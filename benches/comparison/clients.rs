//! Clients as libp2p makes them, and circuits between them that carry plain bytes: hop and stop are
//! spoken by hand, so that no encryption between the clients is measured.

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

/// Longer than any one step takes, also when thousands wait for their turn.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many clients connect at the same time.
const CONNECTING: usize = 16;
/// How often a client tries to connect: on a busy machine, handshakes may take too long.
const ATTEMPTS: usize = 3;

/// How clients reach the relay.
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

    /// All as libp2p's own builder does it, which leaves every preference alone.
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

/// What becomes of the relay's pings. The clients send none themselves: at rest the relay has no
/// work but its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pings {
    /// They are answered.
    Answered,
    /// The client does not know libp2p's protocol for it. Our relay does not ask by that one.
    Unknown,
}

/// What a peer of the relay speaks at least.
#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: stream::Behaviour,
    identify: identify::Behaviour,
    ping: Toggle<ping::Behaviour>,
}

/// A client on one connection, with a reservation.
pub(crate) struct Client {
    peer_id: PeerId,
    relay: PeerId,
    streams: stream::Control,
    stops: stream::IncomingStreams,
    leaving: CancellationToken,
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
        let leaving = CancellationToken::new();
        let mut client = Self {
            peer_id,
            relay,
            streams,
            stops,
            swarm: tokio::task::spawn(run(swarm, relay, leaving.clone())),
            leaving,
        };
        client.reserve().await?;
        Ok(client)
    }

    /// `count` of them, as many at each address of the relay.
    pub(crate) async fn many(
        count: usize,
        channel: Channel,
        relay: &[Multiaddr],
        pings: Pings,
    ) -> Result<Vec<Self>> {
        let addresses = relay.iter().cloned().cycle();
        futures::stream::iter(addresses.take(count))
            .map(|address| Self::insist(channel, address, pings))
            .map(|client| AbortOnDropHandle::new(tokio::task::spawn(client)))
            .buffer_unordered(CONNECTING)
            .map(|joined| joined.map_err(Error::from).and_then(identity))
            .try_collect()
            .await
    }

    async fn insist(channel: Channel, relay: Multiaddr, pings: Pings) -> Result<Self> {
        for _ in 1..ATTEMPTS {
            match Self::new(channel, relay.clone(), pings).await {
                Ok(client) => return Ok(client),
                Err(error) => eprintln!("once more: {error}"),
            }
        }
        Self::new(channel, relay, pings).await
    }

    /// Makes the reservation, or renews it.
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

    /// Opens a circuit to `target`: this end of it, and the target's.
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

    /// They close their connections, as clients do that end in order.
    pub(crate) async fn all_leave(clients: Vec<Self>) -> Result<()> {
        let leaving = futures::stream::iter(clients).map(|client| Ok(client.leave()));
        leaving.try_buffer_unordered(CONNECTING).try_collect().await
    }

    async fn leave(mut self) -> Result<()> {
        self.leaving.cancel();
        Ok(timeout(PATIENCE, &mut self.swarm).await??)
    }
}

async fn run(mut swarm: Swarm<Behaviour>, relay: PeerId, leaving: CancellationToken) {
    let serving = async {
        loop {
            swarm.select_next_some().await;
        }
    };
    let _: Option<()> = leaving.run_until_cancelled(serving).await;
    if swarm.disconnect_peer_id(relay).is_ok() {
        while swarm.is_connected(&relay) {
            swarm.select_next_some().await;
        }
    }
}

/// Ends both ends of a circuit in order.
pub(crate) async fn finish((mut near, mut far): (Stream, Stream)) -> Result<()> {
    let finished = async {
        tokio::try_join!(near.close(), far.close())?;
        let mut rest = [0];
        tokio::try_join!(near.read(&mut rest), async { far.read(&mut [0]).await })
    };
    match timeout(PATIENCE, finished).await?? {
        (0, 0) => Ok(()),
        _ => Err("a circuit carries what nobody sent".into()),
    }
}
