//! DNS over TCP, for answers that do not fit into a packet and for clients beyond the limit.
//!
//! An address cannot be forged here, so answers are not limited; connections are, in number, for
//! each network, and in time.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::debug;

use super::{rate_limit::ClientNetwork, response::DnsTransport, server::DnsServer};
use crate::lifecycle::Lifecycle;

/// Connections at once; more are closed.
const MAX_CONNECTIONS: usize = 256;
/// Connections at once from one /24 or /56.
const MAX_CONNECTIONS_PER_NETWORK: usize = 32;
/// How long a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a query may take, from the end of the last answer on, and an answer.
const IO_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions on one connection.
const MAX_QUERIES: usize = 100;
/// Bytes of a query.
const MAX_QUERY_BYTES: usize = 2048;
/// The rest after an error of the listener that may last.
const ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// Answers on one listener.
#[derive(Debug)]
pub(super) struct TcpServer {
    listener: TcpListener,
    server: DnsServer,
    lifecycle: Lifecycle,
    limiter: ConnectionLimiter,
}

impl TcpServer {
    pub(super) fn new(listener: TcpListener, server: DnsServer, lifecycle: Lifecycle) -> Self {
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
                    // Too many open files, most likely: some will be closed.
                    debug!(%error, "cannot accept a connection");
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
                .spawn_until_end("dns connection", async move {
                    let serving = serve_connection(&server, stream);
                    if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, serving).await {
                        debug!(%from, %error, "a connection failed");
                    }
                    drop(permit);
                });
        }
    }
}

/// Answers one query after the other.
async fn serve_connection(server: &DnsServer, mut stream: TcpStream) -> io::Result<()> {
    for _ in 0..MAX_QUERIES {
        let query = timeout(IO_TIMEOUT, read_message(&mut stream)).await??;
        let Some(answer) = query.and_then(|q| server.respond(&q, DnsTransport::Tcp)) else {
            break;
        };
        let Ok(length) = u16::try_from(answer.len()) else {
            break;
        };
        // In one piece: some clients expect the length and the message in one packet.
        let message = [length.to_be_bytes().as_slice(), &answer].concat();
        timeout(IO_TIMEOUT, stream.write_all(&message)).await??;
    }
    timeout(IO_TIMEOUT, stream.shutdown()).await?
}

/// One query; `None` at the end, and for one that is longer than any that makes sense.
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

/// The connections that are open, by network.
#[derive(Clone, Debug, Default)]
struct ConnectionLimiter(Arc<Mutex<HashMap<ClientNetwork, usize>>>);

/// A connection that counts until this is dropped.
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
    fn connections_are_bounded_for_each_network_and_in_all() {
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
