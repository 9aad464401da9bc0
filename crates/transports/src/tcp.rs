//! The TCP transport: libp2p's, with admission control by the [`ConnectionGater`] and support for the
//! PROXY protocol.
//!
//! A connection that is refused is closed as soon as it is accepted, and not reported to the swarm. A
//! connection from a proxy is reported when its [header](super::proxy) was read, with the address of the
//! client. Headers are read concurrently and with a timeout, so a slow connection does not delay
//! others.
//!
//! Each incoming connection holds a file descriptor of the resource manager's budget from the accept
//! until it is closed.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    AsyncRead, AsyncWrite,
    future::{BoxFuture, FutureExt, MapOk, Ready, TryFutureExt},
    stream::{FuturesUnordered, StreamExt},
};
use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
    tcp::tokio::{TcpStream, Transport as Inner},
};
use resource_manager::ConnectionDenyReason;
use resource_manager::{Descriptor, Exhausted};
use tokio::time::timeout;
use tracing::debug;

use super::{
    admission::{ConnectionGater, RateLimited},
    ip_of,
    proxy::{self, Source},
    socket_buffers::SocketBuffers,
};

/// The time within which a proxy has to send its header, before the timeout of the handshake starts. The
/// specification requires at least three seconds, for retransmissions.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of connections that wait for their header.
const MAX_PENDING_HEADERS: usize = 1024;

/// The maximum number of events that are handled in one poll, before the task yields.
const MAX_EVENTS_PER_POLL: usize = 64;

type Upgrade = Ready<io::Result<TcpConnection>>;
type Event = TransportEvent<Upgrade, io::Error>;
/// An event of libp2p's transport.
type InnerEvent = TransportEvent<Ready<io::Result<TcpStream>>, io::Error>;

/// The TCP transport, see [the module](self).
pub struct TcpTransport {
    inner: Inner,
    gater: ConnectionGater,
    buffers: SocketBuffers,
    /// The listeners that are not removed. Connections of a removed one are refused, also if they were
    /// accepted before.
    listeners: HashSet<ListenerId>,
    pending_headers: FuturesUnordered<BoxFuture<'static, Option<IncomingConnection>>>,
}

/// A TCP connection.
pub struct TcpConnection {
    io: TcpStream,
    /// Released when the connection is dropped.
    descriptor: Option<Descriptor>,
}

/// A connection that was accepted and not reported yet.
struct IncomingConnection {
    listener: ListenerId,
    stream: TcpConnection,
    local: Multiaddr,
    remote: Multiaddr,
}

impl TcpTransport {
    /// Creates a transport on top of `inner` that accepts the connections which `gater` admits.
    pub fn new(inner: Inner, gater: ConnectionGater) -> Self {
        Self {
            inner,
            buffers: SocketBuffers::for_limits(gater.resources().limits()),
            gater,
            listeners: HashSet::new(),
            pending_headers: FuturesUnordered::new(),
        }
    }

    /// Handles a connection that was accepted. Returns an event if it is admitted, and `None` if it is
    /// refused or its header has to be read first.
    fn on_accepted(&self, connection: IncomingConnection) -> Option<Event> {
        if !ip_of(&connection.remote).is_some_and(|ip| self.gater.is_proxy(ip)) {
            return self.admit(connection);
        }
        if self.pending_headers.len() >= MAX_PENDING_HEADERS {
            self.refuse(
                &connection.stream.io,
                ConnectionDenyReason::MaxPending.as_str(),
            );
            return None;
        }
        self.pending_headers
            .push(read_proxy_header(connection, self.gater.clone()).boxed());
        None
    }

    /// Admits or refuses a connection whose client address is known.
    fn admit(&self, connection: IncomingConnection) -> Option<Event> {
        let IncomingConnection {
            listener,
            mut stream,
            local,
            remote,
        } = connection;
        if !self.listeners.contains(&listener) {
            self.refuse(&stream.io, ConnectionDenyReason::Draining.as_str());
            return None;
        }
        if ip_of(&remote).is_some_and(|ip| self.gater.check_validated(ip).is_err()) {
            self.refuse(&stream.io, RateLimited::REASON);
            return None;
        }
        if let (Some(ip), Some(descriptor)) = (ip_of(&remote), &mut stream.descriptor)
            && let Err(cause) = descriptor.attribute_to(ip)
        {
            self.refuse(&stream.io, cause.reason());
            return None;
        }
        Some(TransportEvent::Incoming {
            listener_id: listener,
            upgrade: futures::future::ready(Ok(stream)),
            local_addr: local,
            send_back_addr: remote,
        })
    }

    /// Refuses a connection, which the caller drops. It is reset, so that the kernel keeps no state in
    /// `TIME_WAIT`, even under a flood.
    fn refuse(&self, stream: &TcpStream, reason: &'static str) {
        let _ = stream.0.set_zero_linger();
        self.gater.record_refusal(reason);
    }
}

/// Reads the PROXY header of a connection, and sets its remote address to the client's. Returns `None` if
/// there is no valid header.
async fn read_proxy_header(
    mut connection: IncomingConnection,
    gater: ConnectionGater,
) -> Option<IncomingConnection> {
    let header = proxy::read(&mut connection.stream);
    match timeout(HEADER_TIMEOUT, header).await {
        Ok(Ok(Source::Client(client))) => connection.remote = address(client),
        Ok(Ok(Source::Proxy)) => {}
        Ok(Err(proxy::Error::NoData)) => return None,
        Ok(Err(error)) => {
            debug!(%error, "connection from a proxy refused");
            gater.record_refusal(ConnectionDenyReason::ProxyHeader.as_str());
            return None;
        }
        Err(_) => {
            gater.record_refusal(ConnectionDenyReason::ProxyHeader.as_str());
            return None;
        }
    }
    Some(connection)
}

fn address(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port()))
}

impl libp2p::core::Transport for TcpTransport {
    type Output = TcpConnection;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = MapOk<<Inner as libp2p::core::Transport>::Dial, fn(TcpStream) -> TcpConnection>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)?;
        self.listeners.insert(id);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.listeners.remove(&id);
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let dial = self.inner.dial(address, options)?;
        // Dials are few, and have a separate descriptor budget.
        Ok(dial.map_ok(|io| TcpConnection {
            io,
            descriptor: None,
        }))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..MAX_EVENTS_PER_POLL {
            let event = match self.pending_headers.poll_next_unpin(cx) {
                Poll::Ready(Some(None)) => None,
                Poll::Ready(Some(Some(connection))) => self.admit(connection),
                Poll::Ready(None) | Poll::Pending => match Pin::new(&mut self.inner).poll(cx) {
                    Poll::Ready(event) => self.on_event(event),
                    Poll::Pending => return Poll::Pending,
                },
            };
            if let Some(event) = event {
                return Poll::Ready(event);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl TcpTransport {
    /// Translates an event of libp2p's transport. Returns `None` if it has to be held back.
    fn on_event(&mut self, event: InnerEvent) -> Option<Event> {
        match event {
            TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } => match upgrade.into_inner() {
                Ok(io) => {
                    let acquired = self.gater.try_acquire(ip_of(&send_back_addr));
                    let refuse = |cause: Exhausted| self.refuse(&io, cause.reason());
                    let descriptor = acquired.map_err(refuse).ok()?;
                    self.buffers.apply(&io);
                    self.on_accepted(IncomingConnection {
                        listener: listener_id,
                        stream: TcpConnection {
                            io,
                            descriptor: Some(descriptor),
                        },
                        local: local_addr,
                        remote: send_back_addr,
                    })
                }
                Err(error) => Some(TransportEvent::ListenerError { listener_id, error }),
            },
            TransportEvent::ListenerClosed {
                listener_id,
                reason,
            } => {
                self.listeners.remove(&listener_id);
                Some(TransportEvent::ListenerClosed {
                    listener_id,
                    reason,
                })
            }
            TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            } => Some(TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            }),
            TransportEvent::AddressExpired {
                listener_id,
                listen_addr,
            } => Some(TransportEvent::AddressExpired {
                listener_id,
                listen_addr,
            }),
            TransportEvent::ListenerError { listener_id, error } => {
                Some(TransportEvent::ListenerError { listener_id, error })
            }
        }
    }
}

impl AsyncRead for TcpConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TcpConnection {
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
