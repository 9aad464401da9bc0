//! TCP and WebSocket in a private network.

use std::io;

use libp2p::{
    PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, Transport as _},
        upgrade::Version,
    },
    dns,
    identity::Keypair,
    noise, tcp, websocket, yamux,
};
use libp2p_pnet::{PnetConfig, PreSharedKey};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The transports of a client with the key of a private network. They authenticate by Noise.
///
/// # Errors
///
/// The system's DNS configuration cannot be read.
pub(super) fn transport(
    keypair: &Keypair,
    key: PreSharedKey,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Error> {
    let noise = noise::Config::new(keypair)?;
    let config = PnetConfig::new(key);
    let websocket = websocket::Config::new(tcp()?)
        .and_then(move |socket, _| config.handshake(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let tcp = tcp()?
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

fn tcp() -> io::Result<dns::tokio::Transport<tcp::tokio::Transport>> {
    let config = tcp::Config::default().nodelay(true);
    dns::tokio::Transport::system(tcp::tokio::Transport::new(config))
}
