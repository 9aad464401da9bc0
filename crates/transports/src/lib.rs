//! The transports: TCP and WebSocket (with Noise or TLS 1.3, and yamux), and QUIC. In a private network,
//! TCP and WebSocket are encrypted with its key as well, and there is no QUIC.
//!
//! The relay has its own muxers, because cutting a circuit must reset both of its streams, in any state:
//! see [`yamux`] and [`quic`].

pub mod admission;
pub mod buffered;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod handshakes;
mod interface_addresses;
#[cfg(test)]
mod memory_socket;
pub mod noise;
pub mod observer;
mod peer_key;
mod pending;
pub mod private_network;
pub mod proxy;
pub mod quic;
pub mod security;
mod socket_buffers;
pub mod swarm_key;
pub mod tcp;
mod timer_coalescing;
pub mod tls;
pub mod websocket;
pub mod yamux;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        ConnectedPoint,
        muxing::StreamMuxerBox,
        transport::{
            Boxed, OptionalTransport, global_only, timeout::TransportTimeout, upgrade::Version,
        },
    },
    identity::Keypair,
    multiaddr::Protocol,
    tcp::tokio::Transport as Libp2pTcpTransport,
    websocket::Config as WebSocket,
};
use resource_manager::ip_of;
use socket2::{Domain, Socket, Type};

pub use self::{
    admission::{Admission, ConnectionGater},
    interface_addresses::{check_interface_watcher, interface_addresses},
    swarm_key::SwarmKey,
};
use self::{
    handshakes::Handshakes, observer::Observer, pending::HandshakeLimiter,
    private_network::Network, security::Security,
};

/// The time within which a new connection has to be authenticated and multiplexed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The time within which a dial has to be authenticated and multiplexed. Clients of `AutoNAT`, for which
/// the relay dials, wait 10 s for the answer to their request.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// All transports of the relay, combined.
pub type BoxedTransport = Boxed<(PeerId, StreamMuxerBox)>;
/// The error of creating a transport.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The addresses that may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialScope {
    /// Globally reachable addresses only.
    Global,
    /// All addresses.
    Any,
}

/// Creates all transports of the relay, and a handle of the QUIC endpoints. With a `swarm_key`, the relay
/// is in a private network, whose specification has no QUIC. `gater` admits connections; handshakes and
/// connections are reported to `observer`.
///
/// # Errors
/// When no TLS certificate or Noise key can be generated for `keypair`; for an Ed25519 or secp256k1 key
/// this always succeeds.
pub fn build(
    keypair: &Keypair,
    swarm_key: Option<&SwarmKey>,
    dial_scope: DialScope,
    gater: &ConnectionGater,
    observer: &Arc<dyn Observer>,
) -> Result<(BoxedTransport, quic::Handle), Error> {
    let handshakes = |transport| Handshakes::new(observer.clone(), transport);
    let security = |transport| Security::new(keypair, gater.clone(), handshakes(transport));
    let socket = || {
        let socket = Libp2pTcpTransport::new(libp2p::tcp::Config::default().nodelay(true));
        tcp::TcpTransport::new(socket, gater.clone())
    };
    let network = Network::new(swarm_key, gater.clone());
    let streams = yamux::Config::for_resources(gater.resources().clone());
    let tcp = socket()
        .and_then(network.join())
        .upgrade(Version::V1Lazy)
        .authenticate(security("tcp")?)
        .multiplex(streams.clone())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|connection, point| attributed(connection, &point));
    let mut websocket = WebSocket::new(socket().map(|socket, point| match point {
        ConnectedPoint::Listener { .. } => websocket::FrameSplitter::new(socket),
        ConnectedPoint::Dialer { .. } => websocket::FrameSplitter::transparent(socket),
    }));
    websocket.set_max_data_size(websocket::MAX_FRAME_BYTES);
    let websocket = websocket
        .and_then(network.join())
        .upgrade(Version::V1Lazy)
        .authenticate(security("websocket")?)
        .multiplex(streams)
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|connection, point| attributed(connection, &point));
    let limits = gater.resources().limits();
    let mut quic = quic::Config::new(keypair);
    // More than the limit of pending handshakes, so that old ones are evicted before new connections are
    // refused.
    let pending = usize::try_from(limits.connections.pending);
    quic.max_pending = pending.map_or(quic.max_pending, |pending| pending.saturating_mul(2));
    quic.stream_receive_window = quic.stream_receive_window.min(limits.stream_window);
    quic.receive_window = quic.receive_window.min(limits.connection_window);
    quic.handshakes = handshakes("quic");
    quic.observer = observer.clone();
    quic.gater = gater.clone();
    let handle = quic.handle();
    let quic = match swarm_key {
        None => OptionalTransport::some(quic::QuicTransport::new(quic)?),
        Some(_) => OptionalTransport::none(),
    };
    let quic = quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let streams = websocket
        .or_transport(tcp)
        .map(|either, _| either.into_inner());
    let transport = quic
        .or_transport(HandshakeLimiter::new(streams.boxed(), gater.clone()))
        .map(|either, _| either.into_inner());
    let transport = TransportTimeout::with_outgoing_timeout(transport, DIAL_TIMEOUT);
    let transport = match dial_scope {
        DialScope::Global => global_only::Transport::new(transport).boxed(),
        DialScope::Any => transport.boxed(),
    };
    Ok((transport, handle))
}

/// Attributes the memory of a connection to the address of its peer.
fn attributed<C>(
    (peer, muxer): (PeerId, yamux::Muxer<C>),
    point: &ConnectedPoint,
) -> (PeerId, StreamMuxerBox)
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    if let Some(ip) = ip_of(point.get_remote_address()) {
        muxer.memory().attribute_to(ip);
    }
    (peer, StreamMuxerBox::new(muxer))
}

/// Checks that a TCP or WebSocket listener can have exclusive use of its port. Other addresses are not
/// checked.
///
/// libp2p binds TCP ports with `SO_REUSEPORT`. A second relay on the same port would start without an
/// error, and get half of the connections. So a socket without this option is bound and closed first.
///
/// # Errors
/// When the socket cannot be created or bound.
pub fn check_exclusive(address: &Multiaddr) -> io::Result<()> {
    let (Some(ip), Some(Protocol::Tcp(port))) = (ip_of(address), address.iter().nth(1)) else {
        return Ok(());
    };
    let address = SocketAddr::from((ip, port));
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Ignores connections of a previous process, but not listeners.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}
