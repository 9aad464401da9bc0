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

/// How two swarms connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// The memory transport, with Noise and libp2p's yamux.
    Memory,
    /// TCP on loopback, with the relay's TCP stack on both sides.
    Tcp,
    /// WebSocket on loopback, with the relay's stack on both sides.
    WebSocket,
    /// QUIC on loopback, with the relay's QUIC transport on both sides.
    Quic,
}

impl Net {
    /// The networks for most cases.
    pub const ALL: &[Self] = &[Self::Memory, Self::Tcp, Self::Quic];
    /// One network, for cases that wait for timeouts.
    pub const SLOW: &[Self] = &[Self::Memory];
    /// The networks on which a peer has an IP address.
    pub const SOCKETS: &[Self] = &[Self::Tcp, Self::Quic];
    /// The networks whose streams distinguish a reset or a lost connection from the end of the data.
    pub const RESETS: &[Self] = &[Self::Tcp, Self::WebSocket, Self::Quic];

    /// The listen address with any free port.
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

    /// A swarm with a new identity. With a relay client behaviour, it can also listen and dial through
    /// circuits.
    pub fn swarm<B: NetworkBehaviour>(
        self,
        behind_relay: bool,
        make: impl FnOnce(&Keypair, Option<relay::client::Behaviour>) -> B,
    ) -> Swarm<B> {
        self.swarm_of(&Keypair::generate_ed25519(), behind_relay, make)
    }

    /// A swarm with this identity.
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
        // No case tests the idle timeout.
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
