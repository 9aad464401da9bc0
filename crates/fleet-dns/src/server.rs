//! The DNS server's sockets.
//!
//! One task per UDP socket responds to one packet after the other: packets that arrive faster queue
//! in the bounded buffer of the kernel and are dropped there.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lifecycle::Lifecycle;
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
};
use tracing::{debug, info};

use super::{
    observer::Observer,
    rate_limit::{RateLimitAction, ResponseRateLimit},
    responder::Responder,
    response::DnsTransport,
    tcp,
    udp::{BUFFER_BYTES, ReplySocket},
    zone::Zone,
};

/// Maximum length of a query over UDP, in bytes; a longer one is cut, and malformed.
const MAX_QUERY_BYTES: usize = 2048;
/// Attempts to find a port that is free over both UDP and TCP, if any port will do.
const PORT_ATTEMPTS: usize = 16;
/// Backlog of the TCP listeners.
const TCP_BACKLOG: i32 = 128;
/// Delay after a socket error that may persist.
const ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// A DNS server for the current zone. Clones share the same state.
#[derive(Clone, Debug)]
pub struct DnsServer(Responder);

impl DnsServer {
    /// A server for the current value of `zone`.
    pub fn new(zone: watch::Receiver<Arc<Zone>>, observer: Arc<dyn Observer>) -> Self {
        Self(Responder::new(zone, observer))
    }

    /// Serves `address` until shutdown, with at most `rate` responses a second to one network over
    /// UDP.
    ///
    /// # Errors
    /// When the address cannot be bound over UDP and TCP.
    pub fn serve(
        &self,
        address: SocketAddr,
        rate: Option<usize>,
        lifecycle: &Lifecycle,
    ) -> io::Result<()> {
        let (udp, tcp) = bind(address)?;
        info!(address = %udp.local_addr()?, "dns server listening");
        lifecycle.spawn_cancellable(
            "dns over udp",
            self.clone().udp(udp, ResponseRateLimit::new(rate)),
        );
        let tcp = tcp::TcpServer::new(tcp, self.0.clone(), lifecycle.clone());
        lifecycle.spawn_cancellable("dns over tcp", tcp.run());
        Ok(())
    }

    async fn udp(self, socket: ReplySocket, limit: ResponseRateLimit) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let (path, packets) = match socket.receive(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    debug!(%error, "receive failed");
                    tokio::time::sleep(ERROR_BACKOFF).await;
                    continue;
                }
            };
            for packet in packets.of(&buffer) {
                let packet = packet.get(..MAX_QUERY_BYTES).unwrap_or(packet);
                if let Some(answer) = self.respond_to_packet(packet, path.from, &limit)
                    && let Err(error) = socket.try_respond(&answer, path)
                {
                    debug!(from = %path.from, %error, "send failed");
                }
            }
        }
    }

    fn respond_to_packet(
        &self,
        packet: &[u8],
        from: SocketAddr,
        limit: &ResponseRateLimit,
    ) -> Option<Vec<u8>> {
        if !is_valid_source(from) {
            return None;
        }
        let transport = match limit.check(from.ip()) {
            RateLimitAction::Respond => DnsTransport::Udp,
            RateLimitAction::Truncate => DnsTransport::UdpTruncated,
            RateLimitAction::Drop => {
                self.0.report_limited();
                return None;
            }
        };
        self.0.respond(packet, transport)
    }
}

/// Whether a packet can have this source address; otherwise it is spoofed.
fn is_valid_source(from: SocketAddr) -> bool {
    let is_many = match from.ip() {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_multicast() || ip.is_unspecified(),
    };
    from.port() != 0 && !is_many
}

/// Binds UDP and TCP sockets on the same port.
fn bind(address: SocketAddr) -> io::Result<(ReplySocket, TcpListener)> {
    let mut attempts = 1;
    loop {
        let udp = bind_socket(address, Type::DGRAM)?;
        let udp = UdpSocket::from_std(udp.into())?;
        match bind_socket(udp.local_addr()?, Type::STREAM) {
            Ok(tcp) => {
                tcp.listen(TCP_BACKLOG)?;
                return Ok((ReplySocket::new(udp)?, TcpListener::from_std(tcp.into())?));
            }
            Err(_) if address.port() == 0 && attempts < PORT_ATTEMPTS => attempts += 1,
            Err(error) => return Err(error),
        }
    }
}

fn bind_socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // Otherwise `[::]` would also bind the port of `0.0.0.0`.
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier process may be in TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_source_addresses_are_ignored() {
        let is_valid_source = |from: &str| is_valid_source(from.parse().unwrap());
        for forged in [
            "192.0.2.1:0",
            "224.0.0.1:53",
            "255.255.255.255:53",
            "[ff02::1]:53",
        ] {
            assert!(!is_valid_source(forged), "{forged}");
        }
        assert!(is_valid_source("192.0.2.1:53") && is_valid_source("[2001:db8::1]:40000"));
    }

    #[tokio::test]
    async fn one_port_serves_ipv4_and_ipv6() {
        let (udp, _tcp) = bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = udp.local_addr().unwrap().port();
        match bind_socket(SocketAddr::new("::".parse().unwrap(), port), Type::DGRAM) {
            Ok(_) => {}
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::AddrInUse, "{error}"),
        }
    }
}
