//! How bytes reach the relay: TCP and WebSocket (Noise or TLS 1.3, then yamux), and QUIC.
//!
//! Muxers are the relay's own, because a circuit that is cut has to end in a reset of both of its
//! streams, whatever state they are in: see [`yamux`] and [`quic`].

pub mod quic;
mod security;
pub mod yamux;

use std::time::Duration;

use libp2p::{
    PeerId, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, upgrade::Version},
    },
    identity::Keypair,
    tcp, websocket,
};

use self::security::Security;

/// How long a new connection may take until it is authenticated and multiplexed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Every transport of the relay in one.
pub type Transport = Boxed<(PeerId, StreamMuxerBox)>;
/// Why a transport could not be set up.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Every transport of the relay, and a handle to the QUIC endpoints among them.
///
/// # Errors
/// When `keypair` cannot make a TLS certificate or Noise keys; an Ed25519 key always can.
pub fn build(keypair: &Keypair) -> Result<(Transport, quic::Handle), Error> {
    let security = Security::new(keypair)?;
    let socket = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tcp = socket()
        .upgrade(Version::V1Lazy)
        .authenticate(security.clone())
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let websocket = websocket::Config::new(socket())
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::Config::new(keypair);
    let handle = quic.handle();
    let quic =
        quic::Transport::new(quic)?.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let transport = quic
        .or_transport(websocket)
        .map(|either, _| either.into_inner())
        .or_transport(tcp)
        .map(|either, _| either.into_inner())
        .boxed();
    Ok((transport, handle))
}
