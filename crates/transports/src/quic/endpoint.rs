//! UDP sockets with QUIC endpoints, and the handle that closes them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{Endpoint, EndpointConfig, ServerConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use super::runtime::Runtime;
use crate::observer::Observer;

/// The requested size of a socket's buffers in the kernel, in bytes, for each direction.
///
/// All connections of a listener share them. Linux's default of 208 KiB fills up within milliseconds
/// on a busy relay. The kernel limits the size to `net.core.{r,w}mem_max`.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Binds an endpoint to `local`, which accepts connections if there is a `server` configuration.
/// Events of the socket are reported to `observer`.
///
/// IPv6 sockets do not accept IPv4, so that the same port can be bound for both.
///
/// # Errors
/// When the socket cannot be created or bound.
pub(super) fn bind(
    local: SocketAddr,
    config: EndpointConfig,
    server: Option<ServerConfig>,
    observer: &Arc<dyn Observer>,
) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Best effort: smaller buffers only cost throughput.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&local.into())?;
    let runtime = Runtime::new(observer.clone());
    Endpoint::new(config, server, socket.into(), Arc::new(runtime))
}

/// The handle of all endpoints of a transport, for the shutdown of the process.
///
/// It keeps the endpoints open: their sockets are closed when the transport, their connections *and*
/// all clones of the handle are dropped.
#[derive(Clone, Default)]
pub struct Handle(Arc<Mutex<Endpoints>>);

#[derive(Default)]
struct Endpoints {
    /// The endpoints of listeners and of shared dials, which are kept until the end.
    kept: Vec<Endpoint>,
    /// The endpoints of single dials, which are kept while they have a connection.
    dials: Vec<Endpoint>,
    /// The error code of [`Handle::close_all`], once it was called.
    closed: Option<VarInt>,
}

impl Handle {
    /// Closes every connection with the application error `code`. Connections are refused and dials
    /// fail from now on.
    pub fn close_all(&self, code: u32) {
        let code = VarInt::from_u32(code);
        let mut endpoints = self.lock();
        endpoints.closed = Some(code);
        for endpoint in endpoints.kept.iter().chain(&endpoints.dials) {
            endpoint.close(code, b"");
        }
    }

    /// Waits until all connections are closed, and their close frames are sent.
    ///
    /// After [`close_all`](Self::close_all) this takes a few round trips of the slowest peer, because
    /// close frames are repeated to peers that still send (RFC 9000, section 10.2.1).
    pub async fn wait_idle(&self) {
        let endpoints: Vec<_> = {
            let endpoints = self.lock();
            endpoints
                .kept
                .iter()
                .chain(&endpoints.dials)
                .cloned()
                .collect()
        };
        for endpoint in endpoints {
            endpoint.wait_idle().await;
        }
    }

    /// Keeps an endpoint for the lifetime of the handle.
    pub(super) fn keep(&self, endpoint: Endpoint) {
        let mut endpoints = self.lock();
        endpoints.close_if_closing(&endpoint);
        endpoints.kept.push(endpoint);
    }

    /// Keeps an endpoint that dials, and drops those that have no connection any more.
    pub(super) fn keep_while_connected(&self, endpoint: Endpoint) {
        let mut endpoints = self.lock();
        endpoints.close_if_closing(&endpoint);
        endpoints.dials.retain(|dial| dial.open_connections() > 0);
        endpoints.dials.push(endpoint);
    }

    fn lock(&self) -> MutexGuard<'_, Endpoints> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoints {
    /// Closes an endpoint that is added after [`Handle::close_all`].
    fn close_if_closing(&self, endpoint: &Endpoint) {
        if let Some(code) = self.closed {
            endpoint.close(code, b"");
        }
    }
}
