//! QUIC version 1 ([RFC 9000]) as a libp2p transport, on [`quinn`].
//!
//! TLS 1.3 with libp2p's certificates authenticates both ends ([libp2p TLS], [libp2p QUIC]); the
//! streams of QUIC are libp2p's streams, and need no muxer on top.
//!
//! Why not `libp2p-quic`. What a relay promises rests on four things which that crate leaves open:
//!
//! - **Cut is not finished.** There, a stream that is dropped sends FIN, and what was cut looks
//!   complete to the other side. Here it is reset, see [`Stream`].
//! - **A drain.** There, the removal of a listener closes its endpoint, and with that every live
//!   connection. Here newcomers are refused at once while the live connections go on, until the
//!   process ends them through its [`Handle`].
//! - **Back-pressure.** There, a reader that stops can have 10 MB a stream pile up on the way to
//!   it. Here [`Config::stream_receive_window`] bounds that.
//! - **Strangers and movers.** Here, a flood of handshakes has to prove its addresses first
//!   ([`Config::retry_above`]); clients that change their address keep their connection, and
//!   clients of a relay that crashed and came back learn it with their next packet.
//!
//! Not supported, because a relay has no use for it: hole punching (dialling as the listener), and
//! dialling from the port of a listener.
//!
//! | module | what belongs there |
//! |---|---|
//! | `config` | the settings, and what they mean to quinn |
//! | `tls_config` | certificates, peer ids, the key of stateless resets |
//! | `address` | multiaddresses to socket addresses and back |
//! | `endpoint` | UDP sockets, and the handle that closes them all |
//! | `udp` | one UDP socket: datagrams that cannot be answered, and segmentation offload |
//! | `runtime` | quinn on tokio, with timers that end together |
//! | `interfaces` | the addresses that a listener can be reached on |
//! | `listener` | who is let in, retried or refused |
//! | `connection` | the handshake, and the connection as a muxer |
//! | `flow_control` | what a connection makes the relay hold, and its receive window |
//! | `credit` | receive credit of all connections together |
//! | `ack_counters` | how much a peer has acknowledged |
//! | `send_window` | how much is on its way to a peer |
//! | `stream` | one stream |
//!
//! [RFC 9000]: https://www.rfc-editor.org/rfc/rfc9000
//! [libp2p TLS]: https://github.com/libp2p/specs/blob/master/tls/tls.md
//! [libp2p QUIC]: https://github.com/libp2p/specs/blob/master/quic/README.md

mod ack_counters;
mod address;
mod config;
mod connection;
mod credit;
mod endpoint;
mod flow_control;
mod interfaces;
mod listener;
mod runtime;
mod send_batching;
mod send_window;
mod stream;
#[cfg(test)]
mod tests;
mod tls_config;
mod udp;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{SelectAll, StreamExt};
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId};

pub use self::config::Config;
pub use self::connection::Connection;
use self::connection::ConnectionConfig;
use self::credit::CreditPool;
pub use self::endpoint::Handle;
use self::listener::Listener;
pub use self::stream::Stream;
use super::admission::RateLimited;

/// Why an endpoint could not be set up or a connection not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The UDP socket or the watch on the network interfaces failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The endpoint of a listener stopped: its socket failed, or [`Handle::close_all`] closed it.
    #[error("the endpoint stopped")]
    EndpointStopped,
    /// There is no certificate, ours or the peer's, or it is not one of libp2p's.
    #[error(transparent)]
    Tls(#[from] super::tls::Error),
    /// The TLS library lacks AES-128-GCM, which QUIC's first packets need.
    #[error(transparent)]
    Crypto(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The dial could not begin.
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    /// The handshake failed, or the connection was refused.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// The peer is who it says, and its address has sent too many.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// The handshake gave way to others.
    #[error(transparent)]
    Evicted(#[from] super::pending::Evicted),
    /// The handshake took longer than [`Config::handshake_timeout`].
    #[error("the handshake timed out")]
    HandshakeTimeout,
}

type Event = TransportEvent<Upgrade, Error>;
type Upgrade = BoxFuture<'static, Result<(PeerId, Connection), Error>>;

/// The QUIC transport.
///
/// Listening and dialling open sockets on tokio, and panic outside of its runtime.
///
/// A listener that is removed keeps its socket for as long as the transport lives, to refuse
/// newcomers in the name of the connections that are still on it.
pub struct QuicTransport {
    config: Config,
    server: quinn::ServerConfig,
    /// Removed ones too: they refuse.
    listeners: SelectAll<Listener>,
    /// The endpoints to dial from with [`PortUse::Reuse`], made at first use.
    dialers: Dialers,
    /// What happened outside of `poll`.
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Dialers {
    ipv4: Option<quinn::Endpoint>,
    ipv6: Option<quinn::Endpoint>,
}

impl QuicTransport {
    /// Makes a transport that neither listens nor dials yet.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] and [`Error::Crypto`], if the identity or the build is unfit for
    /// TLS.
    pub fn new(mut config: Config) -> Result<Self, Error> {
        config.credit = CreditPool::new(config.gater.resources());
        Ok(Self {
            server: config.server()?,
            config,
            listeners: SelectAll::new(),
            dialers: Dialers::default(),
            events: VecDeque::new(),
            waker: None,
        })
    }

    /// The endpoint that the dials to the family of `remote` share.
    fn dialer(&mut self, remote: SocketAddr) -> Result<quinn::Endpoint, Error> {
        let slot = match remote {
            SocketAddr::V4(_) => &mut self.dialers.ipv4,
            SocketAddr::V6(_) => &mut self.dialers.ipv6,
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let endpoint = endpoint::bind(
            any_port(remote),
            self.config.endpoint(),
            None,
            &self.config.metrics,
        )?;
        self.config.handle.keep(endpoint.clone());
        Ok(slot.insert(endpoint).clone())
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl libp2p::core::Transport for QuicTransport {
    type Output = (PeerId, Connection);
    type Error = Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        let Some((local, _)) = address::parse(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let endpoint = endpoint::bind(
            local,
            self.config.endpoint(),
            Some(self.server.clone()),
            &self.config.metrics,
        )
        .map_err(|error| TransportError::Other(error.into()))?;
        let listener =
            Listener::new(id, endpoint.clone(), &self.config).map_err(TransportError::Other)?;
        self.config.handle.keep(endpoint);
        self.listeners.push(listener);
        self.wake();
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let removed = self
            .listeners
            .iter_mut()
            .any(|listener| listener.remove(id));
        if removed {
            self.events.push_back(TransportEvent::ListenerClosed {
                listener_id: id,
                reason: Ok(()),
            });
            self.wake();
        }
        removed
    }

    /// Dials `addr`; a `/p2p/` id at its end is demanded of the peer's certificate.
    ///
    /// [`PortUse::New`] takes a socket of its own, as `AutoNAT` v2 wants for its dial back: a
    /// port that the client's NAT has not seen.
    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let (remote, expected) = match address::parse(&addr) {
            Some((remote, expected))
                if opts.role.is_dialer() && remote.port() != 0 && !remote.ip().is_unspecified() =>
            {
                (remote, expected)
            }
            _ => return Err(TransportError::MultiaddrNotSupported(addr)),
        };
        let shared = match opts.port_use {
            PortUse::Reuse => Some(self.dialer(remote).map_err(TransportError::Other)?),
            PortUse::New => None,
        };
        let config = self.config.clone();
        Ok(async move {
            let client = config.client(expected)?;
            let connecting = if let Some(endpoint) = shared {
                endpoint.connect_with(client, remote, SERVER_NAME)?
            } else {
                let endpoint =
                    endpoint::bind(any_port(remote), config.endpoint(), None, &config.metrics)?;
                let connecting = endpoint.connect_with(client, remote, SERVER_NAME)?;
                config.handle.keep_while_connected(endpoint);
                connecting
            };
            let handshake = config.handshakes.dial(TLS);
            connection::handshake(connecting, ConnectionConfig::new(&config), handshake).await
        }
        .boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        if let Poll::Ready(Some(event)) = self.listeners.poll_next_unpin(cx) {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The means of every handshake here, as metrics name it.
const TLS: &str = "tls";

/// TLS wants a name, libp2p has none: any valid one will do, nobody checks it.
const SERVER_NAME: &str = "libp2p";

/// Where to bind a socket that dials `remote`.
fn any_port(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
