//! A client with libp2p's relay client behaviour, over every transport.

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

/// The protocol of test streams, which are opened through circuits.
pub const TEST_PROTOCOL: StreamProtocol = StreamProtocol::new("/descord-relay/test");
/// Timeout for the disconnection of a client.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub relay: relay::client::Behaviour,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub stream: stream::Behaviour,
}

/// The security protocol of a client on TCP.
#[derive(Clone, Copy, Debug)]
pub enum Security {
    Noise,
    Tls,
}

/// A client and its past events.
pub struct Client {
    pub swarm: Swarm<Behaviour>,
    pub peer_id: PeerId,
    pub streams: stream::Control,
    seen: VecDeque<SwarmEvent<BehaviourEvent>>,
}

/// Builds the swarm from a builder with transports.
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

    /// A client that resolves names with these servers, or with the system's if there are none.
    pub async fn with_name_servers(security: Security, name_servers: &[SocketAddr]) -> Self {
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

    /// Runs the client until `wanted` returns a value.
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

    /// Reserves on the relay. Returns the error message if the relay refuses.
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
            } if *listener_id == listener => Some(Err(error_chain(error))),
            SwarmEvent::OutgoingConnectionError { error, .. } => Some(Err(error_chain(error))),
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
        self.swarm.dial(opts).map_err(|error| error_chain(&error))?;
        self.wait("circuit", |event| match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } if *connection_id == id => {
                Some(Ok(id))
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } if *connection_id == id => Some(Err(error_chain(error))),
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

    /// Connects to the relay directly.
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

    /// Runs the client in the background from now on, and echoes data on inbound test streams.
    pub fn echo(mut self) -> tokio::task::JoinHandle<()> {
        self.spawn_echo();
        self.run()
    }

    /// Echoes data on inbound test streams while the client runs.
    pub fn spawn_echo(&mut self) -> tokio::task::JoinHandle<()> {
        let mut incoming = self.streams.accept(TEST_PROTOCOL).unwrap();
        tokio::task::spawn(async move {
            while let Some((_, stream)) = incoming.next().await {
                tokio::task::spawn(echo(stream));
            }
        })
    }

    /// Runs the client until `future` completes.
    pub async fn run_until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                _ = self.swarm.select_next_some() => {}
            }
        }
    }

    /// Closes every connection gracefully.
    pub async fn disconnect(mut self) {
        let disconnect = async {
            while self.swarm.network_info().num_peers() > 0 {
                // New relayed connections may be established meanwhile.
                for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                self.swarm.select_next_some().await;
            }
        };
        // libp2p may not report the end of a relayed connection if the connection to the relay ends
        // first.
        let _ = timeout(DISCONNECT_TIMEOUT, disconnect).await;
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

/// Sends `data` to `target` on a new stream, and asserts that it is echoed.
pub async fn assert_echoed(streams: &mut stream::Control, target: PeerId, data: &[u8]) {
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
        "{} of {} bytes were echoed, or others",
        echoed.len(),
        data.len()
    );
}

async fn echo(stream: Stream) {
    let (reader, mut writer) = stream.split();
    // The other side may disconnect at any time.
    let _ = futures::io::copy(reader, &mut writer).await;
    let _ = writer.close().await;
}

/// The messages of an error and its sources.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        message = format!("{message}: {source}");
        error = source;
    }
    message
}
