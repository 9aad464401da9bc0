//! TCP behind the [`ConnectionGater`]: libp2p's transport, but for who gets in and where they come from.
//!
//! A connection that is refused is closed as it is accepted, before the swarm hears of it. One from
//! a proxy is first told of when its [header](super::proxy) has been read, so that its address is
//! the client's wherever an address counts. Headers are waited for side by side, and not for long:
//! a proxy that is slow with one holds nobody else up.
//!
//! Each connection that came in holds one of the descriptors that the resources has for them, from the
//! moment it is accepted until it is closed.

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
use tokio::time::timeout;
use tracing::debug;

use super::{
    admission::{ConnectionGater, RateLimited},
    ip_of,
    proxy::{self, Source},
    socket_buffers::SocketBuffers,
};
use crate::{
    connection_deny_reason::ConnectionDenyReason,
    resources::{Descriptor, Exhausted},
};

/// How long a proxy may take to send its header, before the time of the handshake begins. The
/// specification wants three seconds at least, so that a packet may be lost.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that may wait for their header at once.
const MAX_WAITING: usize = 1024;

/// So many connections are dealt with in one go before others get their turn.
const AT_ONCE: usize = 64;

type Upgrade = Ready<io::Result<Socket>>;
type Event = TransportEvent<Upgrade, io::Error>;
/// An event of libp2p's transport.
type InnerEvent = TransportEvent<Ready<io::Result<TcpStream>>, io::Error>;

/// See the module's documentation.
pub struct Transport {
    inner: Inner,
    gater: ConnectionGater,
    buffers: SocketBuffers,
    /// Those that are not closed: nothing may come from one that is.
    listeners: HashSet<ListenerId>,
    waiting: FuturesUnordered<BoxFuture<'static, Option<IncomingConnection>>>,
}

/// A TCP connection.
pub struct Socket {
    io: TcpStream,
    /// Given back when the connection is closed.
    descriptor: Option<Descriptor>,
}

/// A connection that was accepted.
struct IncomingConnection {
    listener: ListenerId,
    stream: Socket,
    local: Multiaddr,
    remote: Multiaddr,
}

impl Transport {
    /// Accepts what `gater` admits.
    pub fn new(inner: Inner, gater: ConnectionGater) -> Self {
        Self {
            inner,
            buffers: SocketBuffers::of(gater.resources().limits()),
            gater,
            listeners: HashSet::new(),
            waiting: FuturesUnordered::new(),
        }
    }

    /// A connection has been accepted; gives it if its sender is known and may come in.
    fn accepted(&self, connection: IncomingConnection) -> Option<Event> {
        if !ip_of(&connection.remote).is_some_and(|ip| self.gater.is_proxy(ip)) {
            return self.admit(connection);
        }
        if self.waiting.len() >= MAX_WAITING {
            self.refuse(
                &connection.stream.io,
                ConnectionDenyReason::MaxPending.as_str(),
            );
            return None;
        }
        self.waiting
            .push(read_proxy_header(connection, self.gater.clone()).boxed());
        None
    }

    /// Lets it in, or hangs up.
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

    /// Has the connection reset when it is dropped: the kernel keeps nothing of it, however many
    /// there are.
    fn refuse(&self, stream: &TcpStream, reason: &'static str) {
        let _ = stream.0.set_zero_linger();
        self.gater.refused(reason);
    }
}

/// Reads the header of a proxy's connection, which is then the client's own.
async fn read_proxy_header(
    mut connection: IncomingConnection,
    gater: ConnectionGater,
) -> Option<IncomingConnection> {
    let header = proxy::read(&mut connection.stream);
    match timeout(HEADER_TIMEOUT, header).await {
        Ok(Ok(Source::Client(client))) => connection.remote = address(client),
        Ok(Ok(Source::Proxy)) => {}
        Ok(Err(proxy::Error::Silent)) => return None,
        Ok(Err(error)) => {
            debug!(%error, "a connection from a proxy was refused");
            gater.refused(ConnectionDenyReason::ProxyHeader.as_str());
            return None;
        }
        Err(_) => {
            gater.refused(ConnectionDenyReason::ProxyHeader.as_str());
            return None;
        }
    }
    Some(connection)
}

fn address(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port()))
}

impl libp2p::core::Transport for Transport {
    type Output = Socket;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = MapOk<<Inner as libp2p::core::Transport>::Dial, fn(TcpStream) -> Socket>;

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
        // Dials are few, and have descriptors of their own.
        Ok(dial.map_ok(|io| Socket {
            io,
            descriptor: None,
        }))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..AT_ONCE {
            let event = match self.waiting.poll_next_unpin(cx) {
                Poll::Ready(Some(None)) => None,
                Poll::Ready(Some(Some(connection))) => self.admit(connection),
                Poll::Ready(None) | Poll::Pending => match Pin::new(&mut self.inner).poll(cx) {
                    Poll::Ready(event) => self.incoming(event),
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

impl Transport {
    /// What is told of an event of libp2p's transport at once.
    fn incoming(&mut self, event: InnerEvent) -> Option<Event> {
        match event {
            TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } => match upgrade.into_inner() {
                Ok(io) => {
                    let room = self.gater.try_acquire(ip_of(&send_back_addr));
                    let refuse = |cause: Exhausted| self.refuse(&io, cause.reason());
                    let counted = room.map_err(refuse).ok()?;
                    self.buffers.apply(&io);
                    self.accepted(IncomingConnection {
                        listener: listener_id,
                        stream: Socket {
                            io,
                            descriptor: Some(counted),
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

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
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
