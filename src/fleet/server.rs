//! The sockets of the answerer.
//!
//! UDP is worked off packet by packet in one task for each socket: what comes faster than it can be
//! answered waits in the system's buffer and is lost there, and never takes our memory.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
};
use tracing::{debug, info};

use super::{
    answer::{Answer, Transport, answer},
    limit::{RateLimit, Verdict},
    metrics::DnsMetrics,
    tcp,
    zone::Zone,
};
use crate::lifecycle::Lifecycle;

/// Bytes of a question over UDP; what is longer is cut, and malformed then.
const MAX_QUESTION_BYTES: usize = 2048;
/// Attempts to find a port that is free over both UDP and TCP, where any will do.
const PORT_ATTEMPTS: usize = 16;
/// The rest after an error of a socket that may last.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What all sockets share. Clones share everything.
#[derive(Clone, Debug)]
pub struct Answerer {
    zone: watch::Receiver<Arc<Zone>>,
    metrics: DnsMetrics,
    turn: Arc<AtomicUsize>,
}

impl Answerer {
    /// Answers from whatever zone is current.
    pub fn new(zone: watch::Receiver<Arc<Zone>>, metrics: DnsMetrics) -> Self {
        Self {
            zone,
            metrics,
            turn: Arc::default(),
        }
    }

    /// The answer to one packet, counted; `None` is silence.
    pub(super) fn answer(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let zone = Arc::clone(&self.zone.borrow());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some(Answer { bytes, outcome }) = answer(&zone, packet, transport, turn) else {
            self.metrics.query(transport, "ignored");
            return None;
        };
        self.metrics.query(transport, outcome);
        Some(bytes)
    }

    /// Answers on `address` until the process ends; at most `rate` packets a second to one network.
    ///
    /// # Errors
    /// When the address cannot be bound over UDP and TCP.
    pub async fn serve(
        &self,
        address: SocketAddr,
        rate: Option<usize>,
        lifecycle: &Lifecycle,
    ) -> io::Result<()> {
        let (udp, tcp) = bind(address).await?;
        info!(address = %udp.local_addr()?, "dns answers");
        lifecycle.spawn_until_end("dns over udp", self.clone().udp(udp, RateLimit::new(rate)));
        let listener = tcp::Listener::new(tcp, self.clone(), lifecycle.clone());
        lifecycle.spawn_until_end("dns over tcp", listener.run());
        Ok(())
    }

    async fn udp(self, socket: UdpSocket, mut limit: RateLimit) {
        let mut packet = vec![0; MAX_QUESTION_BYTES];
        loop {
            let (length, from) = match socket.recv_from(&mut packet).await {
                Ok(received) => received,
                Err(error) => {
                    debug!(%error, "cannot receive a packet");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let packet = packet.get(..length).unwrap_or_default();
            if let Some(answer) = self.answer_packet(packet, from, &mut limit)
                // What the system has no room for is lost, as packets are.
                && let Err(error) = socket.try_send_to(&answer, from)
            {
                debug!(%from, %error, "cannot send an answer");
            }
        }
    }

    fn answer_packet(
        &self,
        packet: &[u8],
        from: SocketAddr,
        limit: &mut RateLimit,
    ) -> Option<Vec<u8>> {
        if !may_ask(from) {
            return None;
        }
        let transport = match limit.check(from.ip(), Instant::now()) {
            Verdict::Answer => Transport::Udp,
            Verdict::Truncate => Transport::UdpTruncated,
            Verdict::Drop => {
                self.metrics.query(Transport::Udp, "limited");
                return None;
            }
        };
        self.answer(packet, transport)
    }
}

/// Nobody asks from there; it can only be forged.
fn may_ask(from: SocketAddr) -> bool {
    let is_many = match from.ip() {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_multicast() || ip.is_unspecified(),
    };
    from.port() != 0 && !is_many
}

/// Both sockets on one port.
async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = 1;
    loop {
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if address.port() == 0 && attempts < PORT_ATTEMPTS => attempts += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_ask_is_not_answered() {
        let may_ask = |from: &str| may_ask(from.parse().unwrap());
        for forged in [
            "192.0.2.1:0",
            "224.0.0.1:53",
            "255.255.255.255:53",
            "[ff02::1]:53",
        ] {
            assert!(!may_ask(forged), "{forged}");
        }
        assert!(may_ask("192.0.2.1:53") && may_ask("[2001:db8::1]:40000"));
    }
}
