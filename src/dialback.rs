//! Dials for peers that test whether they are reachable ([`autonat`](crate::autonat)): which addresses
//! the relay dials, and how often.
//!
//! A server that dials any address in a request would be a network scanner. Three limits apply before
//! anything is sent:
//!
//! - **Addresses.** Only IP addresses that the peer is connected from are dialled, and the
//!   transport dials no private address
//!   ([`DialScope::Global`](transports::DialScope::Global)), because behind a proxy clients
//!   appear to connect from one. The client address in the header of a trusted proxy
//!   ([`transports::proxy`]) counts as the address of the connection.
//! - **Rates.** Many hosts may share an address behind a NAT, with ports that are not the peer's.
//!   Dials are therefore limited per address prefix (IPv4 /32, IPv6 /64), per peer and in total, in
//!   bounded memory ([`Limiter`]). Both versions of `AutoNAT` share these rates.
//! - **Simultaneous dials**, in `node::connection_limits`.

use std::{fmt, net::Ipv4Addr, sync::Arc};

use circuit_relay::Relay;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use named_enum::named_enum;
use rate_limits::{Limiter, Rate, Unit};
use resource_manager::{Prefix, ip_of};
use tracing::debug;

/// Dials to one address prefix. A client tests a few addresses when it starts (at most 10 at once
/// in rust-libp2p), and retests one after minutes. Scanning all 65,535 ports of an address takes a
/// week at this rate.
pub const RATE_PER_IP: Rate = Rate::fixed(10, 6, Unit::Minute);
/// Dials for one peer, to all of its addresses.
pub const RATE_PER_PEER: Rate = Rate::fixed(10, 6, Unit::Minute);
/// All dials. Reaching this rate takes 200 address prefixes with continuous requests, and a few
/// percent of a CPU core.
pub const RATE_TOTAL: Rate = Rate::fixed(200, 20, Unit::Second);
/// More protocols than a dialable address has.
const MAX_PROTOCOLS: usize = 8;

/// Decides about dials, and counts them.
pub struct DialPolicy {
    relay: Arc<Relay>,
    observer: Arc<dyn Observer>,
    limiters: DialLimiters,
}

struct DialLimiters {
    peers: Limiter<PeerId>,
    prefixes: Limiter<Prefix>,
    total: Limiter<()>,
}

named_enum! {
    /// Outcome of a requested dial.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum DialOutcome {
        /// The address was dialled.
        Dialled = "dialled",
        /// The request names no address.
        NoAddress = "no_address",
        /// The peer is not connected from the IP address.
        ForeignAddress = "foreign_address",
        /// The peer exceeds its rate.
        RatePerPeer = "rate_per_peer",
        /// The address prefix exceeds its rate.
        RatePerIp = "rate_per_ip",
        /// The total rate is exceeded.
        RateTotal = "rate_total",
        /// Too many dials are pending.
        MaxDials = "max_dials",
    }
}

/// Receives reports of dial requests. The method must not block.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// `number` dials were requested, with the same outcome.
    fn dials_requested(&self, outcome: DialOutcome, number: usize);
}

/// Why a dial was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialDenied {
    /// The peer exceeds its rate.
    #[error("too many dials for the peer")]
    RatePerPeer,
    /// The address prefix exceeds its rate.
    #[error("too many dials to the address prefix")]
    RatePerIp,
    /// The total rate is exceeded.
    #[error("too many dials")]
    RateTotal,
}

impl DialDenied {
    /// The outcome that is counted.
    fn outcome(self) -> DialOutcome {
        match self {
            Self::RatePerPeer => DialOutcome::RatePerPeer,
            Self::RatePerIp => DialOutcome::RatePerIp,
            Self::RateTotal => DialOutcome::RateTotal,
        }
    }
}

impl DialPolicy {
    /// Creates a policy for the peers that are connected to `relay`.
    pub fn new(relay: Arc<Relay>, observer: Arc<dyn Observer>) -> Self {
        Self {
            relay,
            observer,
            limiters: DialLimiters {
                peers: Limiter::new(RATE_PER_PEER),
                prefixes: Limiter::new(RATE_PER_IP),
                total: Limiter::new(RATE_TOTAL),
            },
        }
    }

    /// Whether `address` is one that the relay may dial for `peer`: it has an IP address that the peer
    /// is connected from, and a supported transport.
    pub fn is_own_address(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        is_dialable(address, Some(peer))
            && ip_of(address).is_some_and(|ip| self.relay.is_connected_from(peer, ip))
    }

    /// Checks whether the rates admit a dial of `address`, and counts it for them if so.
    ///
    /// # Errors
    /// The rate that is exceeded.
    pub fn admit(&self, peer: PeerId, address: &Multiaddr) -> Result<(), DialDenied> {
        // An address without IP address is none of the peer's, and is not dialled.
        let ip = ip_of(address).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let checked = self.limiters.check(peer, Prefix::host(ip));
        if let Err(denied) = checked {
            let outcome = denied.outcome();
            debug!(reason = outcome.as_str(), "AutoNAT dial refused");
            self.record(outcome, 1);
        }
        checked
    }

    /// Reports the outcome of `number` requested dials.
    pub fn record(&self, outcome: DialOutcome, number: usize) {
        self.observer.dials_requested(outcome, number);
    }
}

/// Whether the transports can dial `address`. A DNS name is never dialled: it could resolve to any
/// address. A peer id at the end has to be `peer`, if it is given.
pub(crate) fn is_dialable(address: &Multiaddr, peer: Option<&PeerId>) -> bool {
    let mut protocols: Vec<_> = address.iter().take(MAX_PROTOCOLS).collect();
    if let Some(Protocol::P2p(id)) = protocols.last() {
        if peer.is_some_and(|peer| peer != id) {
            return false;
        }
        protocols.pop();
    }
    match protocols.as_slice() {
        [Protocol::Ip4(_) | Protocol::Ip6(_), rest @ ..] => match rest {
            [Protocol::Tcp(_)] | [Protocol::Udp(_), Protocol::QuicV1] => true,
            [Protocol::Tcp(_), Protocol::Ws(path)] => path == "/",
            _ => false,
        },
        _ => false,
    }
}

impl DialLimiters {
    /// Checks the narrowest limit first: a denied dial uses nothing of the wider ones.
    fn check(&self, peer: PeerId, prefix: Prefix) -> Result<(), DialDenied> {
        if !self.peers.allows(&peer) {
            return Err(DialDenied::RatePerPeer);
        }
        if !self.prefixes.allows(&prefix) {
            return Err(DialDenied::RatePerIp);
        }
        if !self.total.allows(&()) {
            return Err(DialDenied::RateTotal);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn limiters() -> DialLimiters {
        DialLimiters {
            peers: Limiter::new(RATE_PER_PEER),
            prefixes: Limiter::new(RATE_PER_IP),
            total: Limiter::new(RATE_TOTAL),
        }
    }

    fn prefix(site: u16, host: u16) -> Prefix {
        Prefix::host(Ipv6Addr::new(0x2001, 0xdb8, site, 1, 0, 0, 0, host).into())
    }

    #[test]
    fn addresses_with_ip_and_supported_transport_are_dialable() {
        let peer = PeerId::random();
        let is_dialable = |text: &str| is_dialable(&text.parse().unwrap(), Some(&peer));
        for text in [
            "/ip4/192.0.2.1/tcp/1",
            "/ip4/192.0.2.1/tcp/1/ws",
            "/ip6/2001:db8::1/udp/1/quic-v1",
            &format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}"),
        ] {
            assert!(is_dialable(text), "{text}");
        }
        let other = PeerId::random();
        for text in [
            "/dns4/example.org/tcp/1",
            "/ip4/192.0.2.1",
            "/ip4/192.0.2.1/udp/1",
            "/ip4/192.0.2.1/tcp/1/wss",
            "/ip4/192.0.2.1/tcp/1/x-parity-ws/%2Fpath",
            "/ip4/192.0.2.1/udp/1/quic-v1/webtransport",
            &format!("/ip4/192.0.2.1/tcp/1/p2p/{other}"),
            &format!("/ip4/192.0.2.1/tcp/1/p2p/{other}/p2p-circuit/p2p/{peer}"),
            &format!("/p2p/{peer}"),
        ] {
            assert!(!is_dialable(text), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dials_are_limited_per_peer_per_prefix_and_in_total() {
        let limiters = limiters();
        let peer = PeerId::random();
        let burst = RATE_PER_PEER.burst.get();
        // From any address.
        for number in 0..burst {
            let prefix = prefix(u16::try_from(number).unwrap(), 1);
            assert_eq!(limiters.check(peer, prefix), Ok(()));
        }
        let refused = Err(DialDenied::RatePerPeer);
        assert_eq!(limiters.check(peer, prefix(0, 1)), refused);
        // The denied dial used nothing of the rate of the prefix, which its hosts share.
        for host in 1..u16::try_from(RATE_PER_IP.burst.get()).unwrap() {
            assert_eq!(limiters.check(PeerId::random(), prefix(0, host)), Ok(()));
        }
        let refused = Err(DialDenied::RatePerIp);
        assert_eq!(limiters.check(PeerId::random(), prefix(0, 7)), refused);
        let dialled = burst + RATE_PER_IP.burst.get() - 1;
        for site in 0..RATE_TOTAL.burst.get() - dialled {
            let prefix = prefix(u16::try_from(1000 + site).unwrap(), 1);
            assert_eq!(limiters.check(PeerId::random(), prefix), Ok(()));
        }
        let refused = Err(DialDenied::RateTotal);
        assert_eq!(limiters.check(PeerId::random(), prefix(9999, 1)), refused);
        // One more after some time, and only one.
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        assert_eq!(limiters.check(peer, prefix(1, 1)), Ok(()));
        let refused = Err(DialDenied::RatePerPeer);
        assert_eq!(limiters.check(peer, prefix(2, 1)), refused);
    }
}
