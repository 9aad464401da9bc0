//! UDP sockets with QUIC on them, and the handle that closes them all.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{Endpoint, EndpointConfig, ServerConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use super::runtime::Runtime;
use crate::metrics::Metrics;

/// Bytes of packets that the kernel may hold for a socket, in either direction.
///
/// All connections of a listener share it, and its default (208 KiB on Linux) is full within
/// milliseconds of a busy relay. The kernel grants what `net.core.{r,w}mem_max` allows.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Opens a socket on `local`; it accepts connections if `server` says how. Events of
/// the socket are counted in `metrics`.
///
/// IPv6 sockets leave IPv4 to others, so that the same port can be bound for both.
pub(super) fn bind(
    local: SocketAddr,
    config: EndpointConfig,
    server: Option<ServerConfig>,
    metrics: &Metrics,
) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Best effort: a smaller buffer is slower, and nothing worse.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&local.into())?;
    let runtime = Runtime::new(metrics.clone());
    Endpoint::new(config, server, socket.into(), Arc::new(runtime))
}

/// All endpoints of a transport, for the end of the process.
///
/// It keeps them open: their sockets are freed when the transport, their connections *and* every
/// handle are gone.
#[derive(Clone, Default)]
pub struct Handle(Arc<Mutex<Endpoints>>);

#[derive(Default)]
struct Endpoints {
    /// Of listeners and of shared dials: here to stay.
    kept: Vec<Endpoint>,
    /// Of single dials: here for as long as they have a connection.
    dials: Vec<Endpoint>,
    closed: Option<VarInt>,
}

impl Handle {
    /// Closes every connection with the application error `code`, and refuses all new ones from
    /// now on.
    pub fn close_all(&self, code: u32) {
        let code = VarInt::from_u32(code);
        let mut endpoints = self.lock();
        endpoints.closed = Some(code);
        for endpoint in endpoints.kept.iter().chain(&endpoints.dials) {
            endpoint.close(code, b"");
        }
    }

    /// Waits until no connection is left and the peers have been told.
    ///
    /// After [`close_all`](Self::close_all) this takes a few round trips of the slowest peer, as
    /// close frames are repeated to those that still send (RFC 9000, section 10.2.1).
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

    /// Keeps an endpoint until the end.
    pub(super) fn keep(&self, endpoint: Endpoint) {
        let mut endpoints = self.lock();
        endpoints.close_if_closing(&endpoint);
        endpoints.kept.push(endpoint);
    }

    /// Keeps an endpoint whose connection has been begun, and forgets those that ended.
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
    /// Who comes after the close is closed as well.
    fn close_if_closing(&self, endpoint: &Endpoint) {
        if let Some(code) = self.closed {
            endpoint.close(code, b"");
        }
    }
}
