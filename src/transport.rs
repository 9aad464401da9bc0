//! How bytes reach the relay: TCP and WebSocket (Noise or TLS 1.3, then yamux), and QUIC.
//!
//! Muxers are the relay's own, because a circuit that is cut has to end in a reset of both of its
//! streams, whatever state they are in: see [`yamux`] and [`quic`].

pub mod admission;
pub mod buffered;
pub mod noise;
mod pending;
pub mod proxy;
pub mod quic;
pub mod security;
mod slack;
#[cfg(test)]
mod socket;
mod socket_buffers;
pub mod tcp;
pub mod tls;
pub mod websocket;
pub mod yamux;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        ConnectedPoint,
        muxing::StreamMuxerBox,
        transport::{Boxed, global_only, upgrade::Version},
    },
    identity::Keypair,
    multiaddr::Protocol,
    tcp::tokio::Transport as TcpTransport,
    websocket::Config as WebSocket,
};
use socket2::{Domain, Socket, Type};

pub use self::admission::{Admission, ConnectionGater};
use self::{pending::Limited, security::Security};
use crate::metrics::{Handshakes, Metrics};

/// How long a new connection may take until it is authenticated and multiplexed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Every transport of the relay in one.
pub type Transport = Boxed<(PeerId, StreamMuxerBox)>;
/// Why a transport could not be set up.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Which addresses may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialScope {
    /// Those of the public internet, and no others.
    Global,
    /// Every one.
    Any,
}

/// Every transport of the relay, and a handle to the QUIC endpoints among them. `gater` decides who
/// gets in; handshakes and connections are counted in `metrics`.
///
/// # Errors
/// When `keypair` cannot make a TLS certificate or Noise keys; an Ed25519 key always can.
pub fn build(
    keypair: &Keypair,
    dials: DialScope,
    gater: &ConnectionGater,
    metrics: &Metrics,
) -> Result<(Transport, quic::Handle), Error> {
    let handshakes = |transport| Handshakes::new(metrics.clone(), transport);
    let security = |transport| Security::new(keypair, handshakes(transport));
    let socket = || {
        let socket = TcpTransport::new(libp2p::tcp::Config::default().nodelay(true));
        tcp::Transport::new(socket, gater.clone())
    };
    let streams = yamux::Config::within(gater.resources().clone());
    let tcp = socket()
        .upgrade(Version::V1Lazy)
        .authenticate(security("tcp")?)
        .multiplex(streams.clone())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|connection, point| attributed(connection, &point));
    let mut websocket = WebSocket::new(socket().map(|socket, point| match point {
        ConnectedPoint::Listener { .. } => websocket::Splitter::new(socket),
        ConnectedPoint::Dialer { .. } => websocket::Splitter::transparent(socket),
    }));
    websocket.set_max_data_size(websocket::MAX_FRAME_BYTES);
    let websocket = websocket
        .upgrade(Version::V1Lazy)
        .authenticate(security("websocket")?)
        .multiplex(streams)
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|connection, point| attributed(connection, &point));
    let plan = gater.resources().limits();
    let mut quic = quic::Config::new(keypair);
    // More than may be under way in all, so that old handshakes give way before new ones are
    // refused.
    let pending = usize::try_from(plan.connections.pending);
    quic.max_pending = pending.map_or(quic.max_pending, |pending| pending.saturating_mul(2));
    quic.stream_receive_window = quic.stream_receive_window.min(plan.stream_window);
    quic.receive_window = quic.receive_window.min(plan.connection_window);
    quic.handshakes = handshakes("quic");
    quic.metrics = metrics.clone();
    quic.gater = gater.clone();
    let handle = quic.handle();
    let quic =
        quic::Transport::new(quic)?.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let streams = websocket
        .or_transport(tcp)
        .map(|either, _| either.into_inner());
    let transport = quic
        .or_transport(Limited::new(streams.boxed(), gater.clone()))
        .map(|either, _| either.into_inner());
    let transport = match dials {
        DialScope::Global => global_only::Transport::new(transport).boxed(),
        DialScope::Any => transport.boxed(),
    };
    Ok((transport, handle))
}

/// What the connection holds counts for the address of its peer from now on.
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

/// The IP address that `address` begins with, if it does.
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether a TCP or WebSocket listener may have this address for itself; any other address passes.
///
/// libp2p binds TCP ports so that they can be shared. A second relay on the port of a first one
/// would start without an error, and take every other connection away from it. A socket that does
/// not share is refused in that case, so one is bound first, and let go.
///
/// # Errors
/// What the system says.
pub fn check_exclusive(address: &Multiaddr) -> io::Result<()> {
    let (Some(ip), Some(Protocol::Tcp(port))) = (ip_of(address), address.iter().nth(1)) else {
        return Ok(());
    };
    let address = SocketAddr::from((ip, port));
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a relay that is gone do not count; a listener does all the same.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}
