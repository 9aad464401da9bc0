//! The transports of a client in a private network: TCP and WebSocket.

use libp2p::{
    PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, Transport as _},
        upgrade::Version,
    },
    identity::Keypair,
    noise, tcp, websocket, yamux,
};
use libp2p_pnet::{PnetConfig, PreSharedKey};

use super::network::{Network, SetupError};

/// The transports of a client with the key of a private network. They authenticate by Noise.
///
/// # Errors
/// When the Noise key cannot be generated.
pub(super) fn build(
    keypair: &Keypair,
    key: PreSharedKey,
    network: &Network,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, SetupError> {
    let noise = noise::Config::new(keypair)?;
    let config = PnetConfig::new(key);
    let tcp = || {
        let socket = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
        network.resolve_names(socket)
    };
    let mut websocket = websocket::Config::new(tcp());
    websocket.set_tls_config(network.tls.clone());
    let websocket = websocket
        .and_then(move |socket, _| config.handshake(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let tcp = tcp()
        .and_then(move |socket, _| config.handshake(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(websocket
        .or_transport(tcp)
        .map(|either, _| either.into_inner())
        .boxed())
}
