//! A libp2p client; a probe uses two of them.

use std::{error::Error, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    core::ConnectedPoint,
    multiaddr::Protocol,
    noise, relay,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    yamux,
};
use libp2p_stream::{Control, IncomingStreams};

use super::{failure::Cause, network::Network, transport};

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::client::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// The limit of circuits that the relay announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AnnouncedLimit {
    /// Maximum duration of a circuit.
    pub(super) duration: Option<Duration>,
    /// Maximum number of bytes of a circuit.
    pub(super) bytes: Option<u64>,
}

/// An established connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: PeerId,
    pub(super) endpoint: ConnectedPoint,
    /// Number of connections to this peer, including this one.
    pub(super) count: u32,
}

/// A client.
pub(super) struct Client {
    swarm: Swarm<Behaviour>,
}

impl Client {
    /// A client without connections.
    ///
    /// # Errors
    ///
    /// The transports cannot be set up.
    pub(super) fn new(network: &Network, timeout: Duration) -> Result<Self, Cause> {
        let build = || {
            Ok::<_, Box<dyn Error + Send + Sync>>(
                SwarmBuilder::with_new_identity()
                    .with_tokio()
                    .with_other_transport(|keypair| transport::build(keypair, network))?
                    .with_relay_client(noise::Config::new, yamux::Config::default)?
                    .with_behaviour(|_, relay| Behaviour {
                        relay,
                        streams: libp2p_stream::Behaviour::new(),
                    })?
                    // A waiting client has no stream, and must not be disconnected as idle.
                    .with_swarm_config(|config| config.with_idle_connection_timeout(timeout * 8))
                    .with_connection_timeout(timeout)
                    .build(),
            )
        };
        let swarm = build().map_err(|error| Cause::of(error.as_ref()))?;
        Ok(Self { swarm })
    }

    pub(super) fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// A handle to open streams.
    pub(super) fn control(&self) -> Control {
        self.swarm.behaviour().streams.new_control()
    }

    /// Accepts the streams that the peer opens.
    pub(super) fn accept_streams(
        &self,
        protocol: StreamProtocol,
    ) -> Result<IncomingStreams, Cause> {
        self.control()
            .accept(protocol)
            .map_err(|error| Cause::of(&error))
    }

    /// Dials an address of a relay, or of a peer through a relay.
    pub(super) async fn connect(&mut self, address: Multiaddr) -> Result<Connection, Cause> {
        let options = DialOpts::from(address);
        let dialed = options.connection_id();
        self.swarm
            .dial(options)
            .map_err(|error| Cause::of_dial(&error))?;
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::OutgoingConnectionError {
                    connection_id,
                    error,
                    ..
                } if connection_id == dialed => {
                    return Err(Cause::of_dial(&error));
                }
                event => {
                    if let Some((id, connection)) = established(event)
                        && id == dialed
                    {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    /// Waits for a connection from `peer`.
    pub(super) async fn accept(&mut self, peer: PeerId) -> Result<Connection, Cause> {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::IncomingConnectionError { error, .. } => return Err(Cause::of(&error)),
                SwarmEvent::ConnectionClosed { endpoint, .. } if !endpoint.is_relayed() => {
                    return Err(Cause::new(
                        "the relay closed its connection to the listener",
                    ));
                }
                event => {
                    if let Some((_, connection)) = established(event)
                        && connection.peer == peer
                    {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    /// Reserves a slot on a connected relay.
    pub(super) async fn reserve(&mut self, relay: Multiaddr) -> Result<AnnouncedLimit, Cause> {
        let listener = self
            .swarm
            .listen_on(relay.with(Protocol::P2pCircuit))
            .map_err(|error| Cause::of(&error))?;
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Relay(
                    relay::client::Event::ReservationReqAccepted { limit, .. },
                )) => {
                    return Ok(limit.map_or_else(AnnouncedLimit::default, |limit| {
                        AnnouncedLimit {
                            duration: limit.duration(),
                            bytes: limit.data_in_bytes(),
                        }
                    }));
                }
                SwarmEvent::ListenerError { listener_id, error }
                | SwarmEvent::ListenerClosed {
                    listener_id,
                    reason: Err(error),
                    ..
                } if listener_id == listener => {
                    return Err(Cause::of(&error));
                }
                SwarmEvent::ListenerClosed { listener_id, .. } if listener_id == listener => {
                    return Err(Cause::new(
                        "the relay closed the connection instead of answering",
                    ));
                }
                _ => {}
            }
        }
    }

    /// Polls the client until its path to `peer` changes, and returns how.
    pub(super) async fn watch(&mut self, peer: PeerId) -> Cause {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished {
                    peer_id, endpoint, ..
                } if peer_id == peer => {
                    let address = endpoint.get_remote_address();
                    return Cause::new(format!("a second connection appeared: {address}"));
                }
                SwarmEvent::ConnectionClosed {
                    endpoint, cause, ..
                } => {
                    let what = if endpoint.is_relayed() {
                        "circuit"
                    } else {
                        "relay's connection"
                    };
                    return match cause {
                        Some(error) => {
                            let cause = Cause::of(&error);
                            Cause {
                                message: format!("{what} closed: {}", cause.message),
                                ..cause
                            }
                        }
                        None => Cause::new(format!("{what} closed")),
                    };
                }
                _ => {}
            }
        }
    }
}

fn established<T>(event: SwarmEvent<T>) -> Option<(ConnectionId, Connection)> {
    match event {
        SwarmEvent::ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint,
            num_established,
            ..
        } => Some((
            connection_id,
            Connection {
                peer: peer_id,
                endpoint,
                count: num_established.get(),
            },
        )),
        _ => None,
    }
}
