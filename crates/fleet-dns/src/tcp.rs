//! DNS over TCP, for responses that do not fit into a packet and for clients beyond the rate limit.
//!
//! Addresses cannot be spoofed here, so responses are not limited. Connections are: their number in
//! total and per client network, and their duration.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lifecycle::Lifecycle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::debug;

use super::{rate_limit::ClientNetwork, responder::Responder, response::DnsTransport};

/// Maximum number of connections; more are closed.
const MAX_CONNECTIONS: usize = 256;
/// Maximum number of connections from one client network.
const MAX_CONNECTIONS_PER_NETWORK: usize = 32;
/// Maximum duration of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Deadline of receiving a query, from the last response on, and of sending a response.
const IO_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of queries on one connection.
const MAX_QUERIES: usize = 100;
/// Maximum length of a query, in bytes.
const MAX_QUERY_BYTES: usize = 2048;
/// Delay after an error of the listener that may persist.
const ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// Serves one listener.
#[derive(Debug)]
pub(super) struct TcpServer {
    listener: TcpListener,
    server: Responder,
    lifecycle: Lifecycle,
    limiter: ConnectionLimiter,
}

impl TcpServer {
    pub(super) fn new(listener: TcpListener, server: Responder, lifecycle: Lifecycle) -> Self {
        Self {
            listener,
            server,
            lifecycle,
            limiter: ConnectionLimiter::default(),
        }
    }

    pub(super) async fn run(self) {
        loop {
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most likely the process has too many open files; some will be closed.
                    debug!(%error, "accept failed");
                    tokio::time::sleep(ERROR_BACKOFF).await;
                    continue;
                }
            };
            let Some(permit) = self.limiter.try_acquire(from.ip().into()) else {
                debug!(%from, "too many connections");
                continue;
            };
            let server = self.server.clone();
            self.lifecycle
                .spawn_cancellable("dns connection", async move {
                    let serving = serve_connection(&server, stream);
                    if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, serving).await {
                        debug!(%from, %error, "connection failed");
                    }
                    drop(permit);
                });
        }
    }
}

/// Responds to one query after the other.
async fn serve_connection(server: &Responder, mut stream: TcpStream) -> io::Result<()> {
    for _ in 0..MAX_QUERIES {
        let query = timeout(IO_TIMEOUT, read_message(&mut stream)).await??;
        let Some(answer) = query.and_then(|q| server.respond(&q, DnsTransport::Tcp)) else {
            break;
        };
        let Ok(length) = u16::try_from(answer.len()) else {
            break;
        };
        // In one write: some clients expect the length and the message in one segment.
        let message = [length.to_be_bytes().as_slice(), &answer].concat();
        timeout(IO_TIMEOUT, stream.write_all(&message)).await??;
    }
    timeout(IO_TIMEOUT, stream.shutdown()).await?
}

/// Reads one query; `None` at the end of the stream, and for one that is too long.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MAX_QUERY_BYTES {
        return Ok(None);
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(Some(query))
}

/// The number of open connections by client network.
#[derive(Clone, Debug, Default)]
struct ConnectionLimiter(Arc<Mutex<HashMap<ClientNetwork, usize>>>);

/// Counts a connection until it is dropped.
#[derive(Debug)]
struct ConnectionPermit {
    limiter: ConnectionLimiter,
    network: ClientNetwork,
}

impl ConnectionLimiter {
    fn try_acquire(&self, network: ClientNetwork) -> Option<ConnectionPermit> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(&network).copied().unwrap_or(0);
        let all: usize = open.values().sum();
        if own >= MAX_CONNECTIONS_PER_NETWORK || all >= MAX_CONNECTIONS {
            return None;
        }
        open.insert(network, own + 1);
        Some(ConnectionPermit {
            limiter: self.clone(),
            network,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self
            .limiter
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.network) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn network(n: usize) -> ClientNetwork {
        let n = u32::try_from(n).unwrap();
        ClientNetwork::from(std::net::IpAddr::from(Ipv4Addr::from_bits(n << 8)))
    }

    #[test]
    fn connections_are_bounded_per_network_and_in_total() {
        let limiter = ConnectionLimiter::default();
        let mut taken: Vec<_> = (0..MAX_CONNECTIONS_PER_NETWORK)
            .map(|_| limiter.try_acquire(network(0)).unwrap())
            .collect();
        assert!(limiter.try_acquire(network(0)).is_none());
        while let Some(permit) = limiter.try_acquire(network(taken.len())) {
            taken.push(permit);
        }
        assert_eq!(taken.len(), MAX_CONNECTIONS);
        taken.clear();
        assert!(limiter.0.lock().unwrap().is_empty());
    }
}
