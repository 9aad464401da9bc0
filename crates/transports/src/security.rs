//! Authentication and encryption of a byte stream: TLS 1.3 or Noise, as the dialler chooses.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{
    AsyncRead, AsyncWrite,
    future::{BoxFuture, Either, FutureExt},
};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
    tls,
};
use rustls::ServerConfig;

use super::{ConnectionGater, noise, tls as server_tls};
use crate::handshakes::{ConnectionGuard, Handshake, Handshakes};

/// The upgrade of a byte stream with TLS 1.3 or Noise.
#[derive(Clone)]
pub struct Security {
    accepts: Arc<ServerConfig>,
    dials: tls::Config,
    noise: noise::Keys,
    gater: ConnectionGater,
    handshakes: Handshakes,
}

impl Security {
    /// An upgrade that authenticates as `keypair`. Handshakes are counted in `handshakes`, and peers
    /// that are rejected for their identity key are reported to `gater`.
    ///
    /// # Errors
    /// When no TLS certificate or Noise key can be generated for `keypair`; for an Ed25519 or secp256k1
    /// key this always succeeds.
    pub fn new(
        keypair: &Keypair,
        gater: ConnectionGater,
        handshakes: Handshakes,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self {
            accepts: Arc::new(server_tls::server(keypair, gater.clone())?),
            dials: tls::Config::new(keypair)?,
            noise: noise::Keys::new(keypair)?,
            gater,
            handshakes,
        })
    }

    fn is_tls(&self, protocol: &str) -> bool {
        self.dials.protocol_info().any(|tls| tls == protocol)
    }
}

/// TLS of the accepting side, TLS of the dialling side, or Noise.
type Io<C> =
    Either<Either<server_tls::TlsServerStream<C>, tls::TlsStream<C>>, noise::NoiseStream<C>>;

/// An authenticated and encrypted byte stream.
pub struct SecureStream<C> {
    io: Io<C>,
    /// Counts the connection while it exists.
    _open: ConnectionGuard,
}

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::vec::IntoIter<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.dials
            .protocol_info()
            .chain([noise::PROTOCOL])
            .collect::<Vec<_>>()
            .into_iter()
    }
}

type Upgrade<C> = BoxFuture<'static, io::Result<(PeerId, SecureStream<C>)>>;

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, SecureStream<C>);
    type Error = io::Error;
    type Future = Upgrade<C>;

    fn upgrade_inbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        if self.is_tls(protocol) {
            let upgrade = server_tls::accept(self.accepts, socket);
            secured(self.handshakes.begin("tls"), upgrade, |stream| {
                Either::Left(Either::Left(stream))
            })
        } else {
            let upgrade = accept_noise(self.noise, self.gater, socket);
            secured(self.handshakes.begin("noise"), upgrade, Either::Right)
        }
    }
}

impl<C> OutboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, SecureStream<C>);
    type Error = io::Error;
    type Future = Upgrade<C>;

    fn upgrade_outbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        if self.is_tls(protocol) {
            let upgrade = self.dials.upgrade_outbound(socket, protocol);
            secured(self.handshakes.dial("tls"), upgrade, |stream| {
                Either::Left(Either::Right(stream))
            })
        } else {
            let upgrade = noise::dial(self.noise, socket);
            secured(self.handshakes.dial("noise"), upgrade, Either::Right)
        }
    }
}

/// Performs the Noise handshake as the acceptor, and reports a rejected identity key to `gater`.
async fn accept_noise<C: AsyncRead + AsyncWrite + Unpin>(
    keys: noise::Keys,
    gater: ConnectionGater,
    socket: C,
) -> Result<(PeerId, noise::NoiseStream<C>), noise::Error> {
    let result = noise::accept(keys, socket).await;
    if let Err(noise::Error::Identity(error)) = &result {
        gater.record_refusal(error.reason());
    }
    result
}

/// Runs `upgrade`, and counts the resulting stream by `handshake`.
fn secured<C: 'static, S, E>(
    handshake: Handshake,
    upgrade: impl Future<Output = Result<(PeerId, S), E>> + Send + 'static,
    either: fn(S) -> Io<C>,
) -> Upgrade<C>
where
    S: 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    async move {
        let (peer, stream) = upgrade.await.map_err(io::Error::other)?;
        let stream = SecureStream {
            io: either(stream),
            _open: handshake.complete(),
        };
        Ok((peer, stream))
    }
    .boxed()
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for SecureStream<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SecureStream<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
