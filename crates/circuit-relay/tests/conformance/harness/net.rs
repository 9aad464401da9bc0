//! The networks that the cases run over, and swarms on them.

use std::time::Duration;

use libp2p::{
    Multiaddr, PeerId, Swarm, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport, upgrade::Version},
    },
    identity::Keypair,
    noise, relay,
    swarm::{self, NetworkBehaviour},
    yamux,
};
use transports::{ConnectionGater, DialScope};

/// How two swarms reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// In memory, with Noise and libp2p's own yamux.
    Memory,
    /// Sockets of the loopback interface, with the relay's own TCP stack at both ends.
    Tcp,
    /// The same, over WebSocket.
    WebSocket,
    /// Sockets of the loopback interface, with the relay's own QUIC transport at both ends.
    Quic,
}

impl Net {
    /// Those for most cases.
    pub const ALL: &[Self] = &[Self::Memory, Self::Tcp, Self::Quic];
    /// One, for cases that wait for deadlines.
    pub const SLOW: &[Self] = &[Self::Memory];
    /// Those where a peer has an IP address.
    pub const SOCKETS: &[Self] = &[Self::Tcp, Self::Quic];
    /// Those whose streams tell a reset, or the loss of the connection, from the end of the data.
    pub const RESETS: &[Self] = &[Self::Tcp, Self::WebSocket, Self::Quic];

    /// Where to listen for any free port.
    pub fn any_port(self) -> Multiaddr {
        let address = match self {
            Self::Memory => "/memory/0",
            Self::Tcp => "/ip4/127.0.0.1/tcp/0",
            Self::WebSocket => "/ip4/127.0.0.1/tcp/0/ws",
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        };
        address.parse().unwrap()
    }

    fn transport(self, keypair: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)> {
        match self {
            Self::Memory => secure(MemoryTransport::default(), keypair),
            Self::Tcp | Self::WebSocket | Self::Quic => {
                transports::build(
                    keypair,
                    None,
                    DialScope::Any,
                    &ConnectionGater::unlimited(),
                    &transports::observer::NoObserver::shared(),
                )
                .unwrap()
                .0
            }
        }
    }

    /// A swarm with a new identity; behind a relay, it can also be reached, and reach
    /// others, through circuits.
    pub fn swarm<B: NetworkBehaviour>(
        self,
        behind_relay: bool,
        make: impl FnOnce(&Keypair, Option<relay::client::Behaviour>) -> B,
    ) -> Swarm<B> {
        self.swarm_of(&Keypair::generate_ed25519(), behind_relay, make)
    }

    /// The same with this identity.
    pub fn swarm_of<B: NetworkBehaviour>(
        self,
        keypair: &Keypair,
        behind_relay: bool,
        make: impl FnOnce(&Keypair, Option<relay::client::Behaviour>) -> B,
    ) -> Swarm<B> {
        let peer_id = keypair.public().to_peer_id();
        let (transport, client) = if behind_relay {
            let (circuits, client) = relay::client::new(peer_id);
            let transport = secure(circuits, keypair)
                .or_transport(self.transport(keypair))
                .map(|either, _| either.into_inner())
                .boxed();
            (transport, Some(client))
        } else {
            (self.transport(keypair), None)
        };
        // No case is about connections that idle.
        let config = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(Duration::from_secs(600));
        Swarm::new(transport, make(keypair, client), peer_id, config)
    }
}

fn secure<T>(transport: T, keypair: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)>
where
    T: libp2p::Transport + Send + Unpin + 'static,
    T::Output: futures::AsyncRead + futures::AsyncWrite + Unpin + Send + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    transport
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).unwrap())
        .multiplex(yamux::Config::default())
        .boxed()
}
