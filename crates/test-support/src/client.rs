//! libp2p's own relay client, over every transport.

use std::{collections::VecDeque, net::SocketAddr, pin::pin, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig},
    system_conf,
};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder,
    core::{Transport as _, muxing::StreamMuxerBox, upgrade::Version},
    dns::{ResolverConfig, ResolverOpts},
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, tls, websocket, yamux,
};
use libp2p_pnet::{PnetConfig, PreSharedKey};
use libp2p_stream as stream;
use tokio::time::timeout;

use crate::PATIENCE;

/// The protocol of the tests' own streams, which go through circuits.
pub const TEST_PROTOCOL: StreamProtocol = StreamProtocol::new("/descord-relay/test");
/// How long a client takes to leave, at most.
const LEAVING: Duration = Duration::from_secs(3);

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub relay: relay::client::Behaviour,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub stream: stream::Behaviour,
}

/// Which security a client asks for on TCP.
#[derive(Clone, Copy, Debug)]
pub enum Security {
    Noise,
    Tls,
}

/// A client and what happened to it.
pub struct Client {
    pub swarm: Swarm<Behaviour>,
    pub peer_id: PeerId,
    pub streams: stream::Control,
    seen: VecDeque<SwarmEvent<BehaviourEvent>>,
}

/// The swarm of a builder with transports.
macro_rules! relay_client {
    ($builder:expr) => {
        $builder
            .with_relay_client(noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key, relay| Behaviour {
                relay,
                identify: identify::Behaviour::new(identify::Config::new(
                    "ipfs/0.1.0".into(),
                    key.public(),
                )),
                ping: ping::Behaviour::default(),
                stream: stream::Behaviour::new(),
            })
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
            .build()
    };
}

impl Client {
    pub async fn new(security: Security) -> Self {
        Self::with_identity(security, Keypair::generate_ed25519()).await
    }

    /// A client with this identity.
    pub async fn with_identity(security: Security, identity: Keypair) -> Self {
        let (resolver, options) = system_conf::read_system_conf().unwrap();
        Self::with_resolver(security, identity, resolver, options).await
    }

    /// A client that asks these name servers, or the system's if there is none.
    pub async fn asking(security: Security, name_servers: &[SocketAddr]) -> Self {
        if name_servers.is_empty() {
            return Self::new(security).await;
        }
        let servers = name_servers.iter().map(|server| {
            let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
            udp.port = server.port();
            tcp.port = server.port();
            NameServerConfig::new(server.ip(), true, vec![udp, tcp])
        });
        let resolver = ResolverConfig::from_name_servers(servers.collect());
        let mut options = ResolverOpts::default();
        options.cache_size = 0;
        let identity = Keypair::generate_ed25519();
        Self::with_resolver(security, identity, resolver, options).await
    }

    async fn with_resolver(
        security: Security,
        identity: Keypair,
        resolver: ResolverConfig,
        options: ResolverOpts,
    ) -> Self {
        let builder = SwarmBuilder::with_existing_identity(identity).with_tokio();
        let tcp = tcp::Config::default().nodelay(true);
        macro_rules! finish {
            ($builder:expr, $security:expr) => {
                $builder
                    .unwrap()
                    .with_quic()
                    .with_dns_config(resolver, options)
                    .with_websocket($security, yamux::Config::default)
                    .await
                    .unwrap()
            };
        }
        let swarm = match security {
            Security::Noise => relay_client!(finish!(
                builder.with_tcp(tcp, noise::Config::new, yamux::Config::default),
                noise::Config::new
            )),
            Security::Tls => relay_client!(finish!(
                builder.with_tcp(tcp, tls::Config::new, yamux::Config::default),
                tls::Config::new
            )),
        };
        Self::from_swarm(swarm)
    }

    /// A client in the private network with this key, over TCP and WebSocket.
    pub fn in_private_network(key: PreSharedKey) -> Self {
        let network = PnetConfig::new(key);
        let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
        let builder = SwarmBuilder::with_new_identity().with_tokio();
        let builder = builder.with_other_transport(|keypair| {
            let noise = noise::Config::new(keypair).unwrap();
            let websocket = websocket::Config::new(tcp())
                .and_then(move |socket, _| network.handshake(socket))
                .upgrade(Version::V1)
                .authenticate(noise.clone())
                .multiplex(yamux::Config::default())
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
            let tcp = tcp()
                .and_then(move |socket, _| network.handshake(socket))
                .upgrade(Version::V1)
                .authenticate(noise)
                .multiplex(yamux::Config::default())
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
            let either = websocket.or_transport(tcp);
            either.map(|either, _| either.into_inner())
        });
        Self::from_swarm(relay_client!(builder.unwrap()))
    }

    fn from_swarm(swarm: Swarm<Behaviour>) -> Self {
        let streams = swarm.behaviour().stream.new_control();
        Self {
            peer_id: *swarm.local_peer_id(),
            swarm,
            streams,
            seen: VecDeque::new(),
        }
    }

    /// Runs the client until `wanted` gives something.
    pub async fn wait<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&SwarmEvent<BehaviourEvent>) -> Option<T>,
    ) -> T {
        let found = timeout(PATIENCE, async {
            loop {
                let event = self.swarm.select_next_some().await;
                let found = wanted(&event);
                self.seen.push_back(event);
                if let Some(found) = found {
                    return found;
                }
            }
        });
        match found.await {
            Ok(found) => found,
            Err(late) => panic!("no {what} ({late}) among {:#?}", self.seen),
        }
    }

    /// Reserves on the relay; gives whether it was granted, and the error in words if it was not.
    pub async fn reserve(&mut self, relay: &Multiaddr) -> Result<(), String> {
        let listener = self
            .swarm
            .listen_on(relay.clone().with(Protocol::P2pCircuit))
            .unwrap();
        self.wait("reservation", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { .. },
            )) => Some(Ok(())),
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            } if *listener_id == listener => Some(Err(words(error))),
            SwarmEvent::OutgoingConnectionError { error, .. } => Some(Err(words(error))),
            _ => None,
        })
        .await
    }

    /// Connects to `target` through the relay.
    pub async fn connect(
        &mut self,
        relay: &Multiaddr,
        target: PeerId,
    ) -> Result<ConnectionId, String> {
        let address = relay
            .clone()
            .with(Protocol::P2pCircuit)
            .with(Protocol::P2p(target));
        let opts = DialOpts::from(address);
        let id = opts.connection_id();
        self.swarm.dial(opts).map_err(|error| words(&error))?;
        self.wait("circuit", |event| match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } if *connection_id == id => {
                Some(Ok(id))
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } if *connection_id == id => Some(Err(words(error))),
            _ => None,
        })
        .await
    }

    /// Listens on a free port and returns the address to dial.
    pub async fn listen(&mut self, address: Multiaddr) -> Multiaddr {
        let listener = self.swarm.listen_on(address).unwrap();
        self.wait("listen address", |event| match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } if *listener_id == listener => Some(address.clone()),
            _ => None,
        })
        .await
    }

    /// Connects to the relay itself.
    pub async fn dial(&mut self, relay: &Multiaddr) -> ConnectionId {
        let opts = DialOpts::from(relay.clone());
        let id = opts.connection_id();
        self.swarm.dial(opts).unwrap();
        self.wait("connection", |event| match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } if *connection_id == id => {
                Some(())
            }
            _ => None,
        })
        .await;
        id
    }

    /// Runs the client in the background from now on, echoing what comes in on test streams.
    pub fn echo(mut self) -> tokio::task::JoinHandle<()> {
        self.answer();
        self.run()
    }

    /// Echoes what comes in on test streams, whenever the client runs.
    pub fn answer(&mut self) -> tokio::task::JoinHandle<()> {
        let mut incoming = self.streams.accept(TEST_PROTOCOL).unwrap();
        tokio::task::spawn(async move {
            while let Some((_, stream)) = incoming.next().await {
                tokio::task::spawn(echo(stream));
            }
        })
    }

    /// Runs the client until `future` is done.
    pub async fn run_until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                _ = self.swarm.select_next_some() => {}
            }
        }
    }

    /// Closes every connection properly.
    pub async fn leave(mut self) {
        let leave = async {
            while self.swarm.network_info().num_peers() > 0 {
                // Others may come through the relay until the last moment.
                for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                self.swarm.select_next_some().await;
            }
        };
        // libp2p may never see the end of a connection through a relay if its connection to that
        // relay ends first.
        let _ = timeout(LEAVING, leave).await;
    }

    /// Runs the client in the background from now on.
    pub fn run(mut self) -> tokio::task::JoinHandle<()> {
        tokio::task::spawn(async move {
            loop {
                self.swarm.select_next_some().await;
            }
        })
    }
}

/// Sends `data` to `target`, which echoes it, on a new stream, and asserts that the same is received.
pub async fn is_echoed(streams: &mut stream::Control, target: PeerId, data: &[u8]) {
    let stream = streams.open_stream(target, TEST_PROTOCOL).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let send = async {
        writer.write_all(data).await.unwrap();
        writer.close().await.unwrap();
    };
    let mut echoed = Vec::new();
    let (received, ()) = tokio::join!(reader.read_to_end(&mut echoed), send);
    received.unwrap();
    assert!(
        echoed == data,
        "{} of {} bytes came back, or others",
        echoed.len(),
        data.len()
    );
}

async fn echo(stream: Stream) {
    let (reader, mut writer) = stream.split();
    // The other side may go at any time.
    let _ = futures::io::copy(reader, &mut writer).await;
    let _ = writer.close().await;
}

/// An error with all that caused it.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        words = format!("{words}: {source}");
        error = source;
    }
    words
}
