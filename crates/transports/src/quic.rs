//! QUIC version 1 ([RFC 9000]) as a libp2p transport, on [`quinn`].
//!
//! TLS 1.3 with libp2p's certificates authenticates both ends ([libp2p TLS], [libp2p QUIC]); the
//! streams of QUIC are libp2p's streams, and need no muxer on top.
//!
//! `libp2p-quic` is not used, because a relay needs four things that it does not provide:
//!
//! - **Resets.** `libp2p-quic` sends FIN when a stream is dropped, so truncated data looks complete to
//!   the peer. Here the stream is reset, see [`Stream`].
//! - **A drain.** `libp2p-quic` closes the endpoint of a removed listener, and with it every
//!   established connection. Here new connections are refused immediately, and established ones
//!   continue until they are closed through the [`Handle`].
//! - **Back-pressure.** `libp2p-quic` buffers up to 10 MB per stream for a slow reader. Here
//!   [`Config::stream_receive_window`] is the bound.
//! - **Address validation and migration.** Under a flood of handshakes, clients have to validate their
//!   addresses first ([`Config::retry_above`]). Clients that change their address keep their
//!   connection. Clients of a relay that has crashed and restarted get a stateless reset with their
//!   next packet.
//!
//! Hole punching (dialling in the role of the listener) and dialling from the port of a listener are
//! not supported, because a relay needs neither.
//!
//! | module | content |
//! |---|---|
//! | `config` | the settings, and their translation to quinn's |
//! | `tls_config` | certificates, peer ids, and the key of stateless resets |
//! | `address` | conversion between multiaddresses and socket addresses |
//! | `endpoint` | UDP sockets with QUIC endpoints, and the handle that closes them |
//! | `udp` | a UDP socket that drops unanswerable datagrams, and falls back from segmentation offload |
//! | `send_batching` | batches of datagrams per task poll, for segmentation offload |
//! | `runtime` | quinn's runtime on tokio, with coalesced timers and batched sends |
//! | `interfaces` | the addresses of a listener |
//! | `listener` | admission of incoming connections |
//! | `connection` | the handshake, and the connection as a muxer |
//! | `flow_control` | the receive window of a connection, and the accounting of its buffers |
//! | `credit` | the pool of receive credit of all connections |
//! | `ack_counters` | the number of bytes that a peer has acknowledged |
//! | `send_window` | the send window of a connection |
//! | `stream` | a stream |
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

/// An error of an endpoint, a listener or a connection attempt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The UDP socket or the watcher of the network interfaces failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The endpoint of a listener stopped: its socket failed, or [`Handle::close_all`] closed it.
    #[error("the endpoint stopped")]
    EndpointStopped,
    /// A certificate, ours or the peer's, is missing or not a libp2p certificate.
    #[error(transparent)]
    Tls(#[from] super::tls::Error),
    /// The TLS library lacks AES-128-GCM, which encrypts QUIC's Initial packets.
    #[error(transparent)]
    Crypto(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The dial could not be started.
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    /// The handshake failed, or the connection was refused.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// The handshake succeeded, and the peer's address exceeds its rate of connections.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// The handshake was evicted for another one.
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
/// A removed listener keeps its socket for the lifetime of the transport: established connections
/// still use it, and new ones are refused.
pub struct QuicTransport {
    config: Config,
    server: quinn::ServerConfig,
    /// Includes removed listeners, which refuse connections.
    listeners: SelectAll<Listener>,
    /// The endpoints for dials with [`PortUse::Reuse`], bound at first use.
    dialers: Dialers,
    /// Events from outside of `poll`.
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Dialers {
    ipv4: Option<quinn::Endpoint>,
    ipv6: Option<quinn::Endpoint>,
}

impl QuicTransport {
    /// Creates a transport without listeners.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] or [`Error::Crypto`], if the identity or the TLS library is unsuitable.
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

    /// The endpoint that dials to the address family of `remote` share.
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
            &self.config.observer,
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
            &self.config.observer,
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

    /// Dials `addr`. If it ends with a `/p2p/` id, the peer's certificate must have this id.
    ///
    /// [`PortUse::New`] uses a separate socket. The dial back of `AutoNAT` v2 needs a port to which the
    /// client's NAT has no mapping.
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
                    endpoint::bind(any_port(remote), config.endpoint(), None, &config.observer)?;
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

/// The security protocol of every handshake, as a metric attribute.
const TLS: &str = "tls";

/// TLS requires a server name, which libp2p does not use: any valid one works.
const SERVER_NAME: &str = "libp2p";

/// The address to which a socket for dialling `remote` is bound.
fn any_port(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
