//! The transports of a client: libp2p's own, with a resolver and trusted certificates of choice.
//!
//! The same as those of libp2p's `SwarmBuilder`, which supports neither other certificates nor systems
//! without a resolver.

use futures::{
    AsyncRead, AsyncWrite, FutureExt as _, TryFutureExt as _,
    future::{BoxFuture, Either},
};
use libp2p::{
    PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, Transport},
        upgrade::{
            InboundConnectionUpgrade, OutboundConnectionUpgrade, SelectUpgrade, UpgradeInfo,
            Version,
        },
    },
    identity::Keypair,
    noise, quic, tcp, tls, websocket, yamux,
};

use super::{
    network::{Network, SetupError},
    private_network,
};

type Connection = (PeerId, StreamMuxerBox);

/// Creates the transports of a client with this key.
///
/// # Errors
/// When the certificate or the Noise key cannot be generated.
pub(super) fn build(keypair: &Keypair, network: &Network) -> Result<Boxed<Connection>, SetupError> {
    if let Some(key) = network.swarm_key {
        return private_network::build(keypair, key, network);
    }
    let security = Security::new(keypair)?;
    let socket = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tcp = socket()
        .upgrade(Version::V1Lazy)
        .authenticate(security.clone())
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::tokio::Transport::new(quic::Config::new(keypair))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let direct = quic.or_transport(tcp).map(|either, _| either.into_inner());
    // Inside of the WebSocket transport, which needs the name for TLS and for the `Host` header.
    let mut websocket = websocket::Config::new(network.resolve_names(socket()));
    websocket.set_tls_config(network.tls.clone());
    let websocket = websocket
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(websocket
        .or_transport(network.resolve_names(direct))
        .map(|either, _| either.into_inner())
        .boxed())
}

/// Noise, or else TLS.
#[derive(Clone)]
struct Security(SelectUpgrade<noise::Config, tls::Config>);

impl Security {
    fn new(keypair: &Keypair) -> Result<Self, SetupError> {
        let noise = noise::Config::new(keypair)?;
        Ok(Self(SelectUpgrade::new(noise, tls::Config::new(keypair)?)))
    }
}

impl UpgradeInfo for Security {
    type Info = <SelectUpgrade<noise::Config, tls::Config> as UpgradeInfo>::Info;
    type InfoIter = <SelectUpgrade<noise::Config, tls::Config> as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

type Secured<C> = (PeerId, Either<noise::Output<C>, tls::TlsStream<C>>);

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Secured<C>;
    type Error = <SelectUpgrade<noise::Config, tls::Config> as InboundConnectionUpgrade<C>>::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        self.0
            .upgrade_inbound(socket, info)
            .map_ok(Either::factor_first)
            .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Secured<C>;
    type Error = <SelectUpgrade<noise::Config, tls::Config> as OutboundConnectionUpgrade<C>>::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        self.0
            .upgrade_outbound(socket, info)
            .map_ok(Either::factor_first)
            .boxed()
    }
}
