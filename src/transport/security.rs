//! How both ends of a byte stream prove who they are: TLS 1.3 or Noise, whichever the client asks
//! for.

use std::io;

use futures::{
    AsyncRead, AsyncWrite,
    future::{BoxFuture, Either, FutureExt, TryFutureExt},
};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
    noise, tls,
};

/// TLS 1.3 and Noise.
#[derive(Clone)]
pub(super) struct Security {
    tls: tls::Config,
    noise: noise::Config,
}

impl Security {
    pub(super) fn new(keypair: &Keypair) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self {
            tls: tls::Config::new(keypair)?,
            noise: noise::Config::new(keypair)?,
        })
    }

    fn is_tls(&self, protocol: &str) -> bool {
        self.tls.protocol_info().any(|tls| tls == protocol)
    }
}

/// An authenticated and encrypted byte stream, and who is at its other end.
type Secured<C> = (PeerId, Either<tls::TlsStream<C>, noise::Output<C>>);

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::vec::IntoIter<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.tls
            .protocol_info()
            .chain(self.noise.protocol_info())
            .collect::<Vec<_>>()
            .into_iter()
    }
}

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Secured<C>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        if self.is_tls(protocol) {
            let upgrade = self.tls.upgrade_inbound(socket, protocol);
            upgrade
                .map_ok(|(peer, io)| (peer, Either::Left(io)))
                .map_err(io::Error::other)
                .boxed()
        } else {
            let upgrade = self.noise.upgrade_inbound(socket, protocol);
            upgrade
                .map_ok(|(peer, io)| (peer, Either::Right(io)))
                .map_err(io::Error::other)
                .boxed()
        }
    }
}

impl<C> OutboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Secured<C>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        if self.is_tls(protocol) {
            let upgrade = self.tls.upgrade_outbound(socket, protocol);
            upgrade
                .map_ok(|(peer, io)| (peer, Either::Left(io)))
                .map_err(io::Error::other)
                .boxed()
        } else {
            let upgrade = self.noise.upgrade_outbound(socket, protocol);
            upgrade
                .map_ok(|(peer, io)| (peer, Either::Right(io)))
                .map_err(io::Error::other)
                .boxed()
        }
    }
}
