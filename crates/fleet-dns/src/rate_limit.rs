//! Response rate limiting: how many responses one client network gets over UDP.
//!
//! The source address of a packet may be spoofed, so that responses flood a third party. The number
//! of responses per second to a network is therefore limited. Beyond the limit, half of the packets
//! get a truncated response, no longer than the query, which makes a real client retry over TCP,
//! where addresses cannot be spoofed. The other half is dropped.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
};

use rate_limits::{Limiter, Rate, Unit};

/// The network of an address: an IPv4 /24 or an IPv6 /56, the smallest usual customer assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(u64);

impl From<IpAddr> for ClientNetwork {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self(u64::from(Ipv4Addr::to_bits(ip) >> 8)),
            // The IPv6 prefix as a number above all IPv4 prefixes.
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments().map(u64::from);
                let prefix = (a << 48 | b << 32 | c << 16 | d) >> 8;
                Self(1 << 56 | prefix)
            }
        }
    }
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitAction {
    /// Send the response.
    Respond,
    /// Send a truncated response, which makes the client retry over TCP.
    Truncate,
    /// Drop the packet.
    Drop,
}

/// Limits the responses to each client network. A [`Limiter`] tracks the networks: rarely seen ones
/// are forgotten first, a flooded one is not.
#[derive(Debug)]
pub struct ResponseRateLimit(Option<Limiter<ClientNetwork>>);

impl ResponseRateLimit {
    /// At most `per_second` responses a second to a network, with a burst of the same number; `None`
    /// is unlimited.
    pub fn new(per_second: Option<usize>) -> Self {
        Self(per_second.map(|rate| {
            let rate = u32::try_from(rate).unwrap_or(u32::MAX).min(Rate::MAX);
            let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
            Limiter::new(Rate {
                burst: rate,
                refill: rate,
                per: Unit::Second,
            })
        }))
    }

    /// What to do with a packet that arrives from `ip` now.
    pub fn check(&self, ip: IpAddr) -> RateLimitAction {
        match &self.0 {
            Some(limiter) if !limiter.allows(&ip.into()) => {
                // Random, so that a client whose queries alternate with those of another one gets
                // truncated responses as well.
                if rand::random() {
                    RateLimitAction::Truncate
                } else {
                    RateLimitAction::Drop
                }
            }
            _ => RateLimitAction::Respond,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Counts the full and the truncated responses to a burst of packets.
    fn flood(limit: &ResponseRateLimit, from: &str, packets: usize) -> (usize, usize) {
        let verdicts: Vec<_> = (0..packets).map(|_| limit.check(ip(from))).collect();
        let count = |wanted| {
            verdicts
                .iter()
                .filter(|verdict| **verdict == wanted)
                .count()
        };
        (
            count(RateLimitAction::Respond),
            count(RateLimitAction::Truncate),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn responses_per_second_to_a_network_are_limited() {
        let limit = ResponseRateLimit::new(Some(10));
        let (answers, truncated) = flood(&limit, "192.0.2.1", 1010);
        assert_eq!(answers, 10);
        // Half of them, within seven standard deviations.
        assert!((390..=610).contains(&truncated), "{truncated}");
        advance(Duration::from_millis(550)).await;
        assert_eq!(flood(&limit, "192.0.2.1", 30).0, 5);
        advance(Duration::from_secs(60)).await;
        assert_eq!(flood(&limit, "192.0.2.1", 100).0, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn networks_are_limited_separately() {
        let limit = ResponseRateLimit::new(Some(1));
        for (first, same, other) in [
            ("192.0.2.1", "192.0.2.255", "192.0.3.1"),
            (
                "2001:db8:0:100::1",
                "2001:db8:0:1ff::1",
                "2001:db8:0:200::1",
            ),
            ("::ffff:203.0.113.1", "203.0.113.9", "::203.0.113.1"),
        ] {
            assert_eq!(limit.check(ip(first)), RateLimitAction::Respond);
            assert_ne!(limit.check(ip(same)), RateLimitAction::Respond, "{same}");
            assert_eq!(limit.check(ip(other)), RateLimitAction::Respond, "{other}");
        }
    }

    #[test]
    fn none_is_unlimited() {
        let limit = ResponseRateLimit::new(None);
        assert_eq!(flood(&limit, "::1", 1000), (1000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn flooded_network_stays_limited_among_spoofed_ones() {
        let limit = ResponseRateLimit::new(Some(1));
        assert_eq!(limit.check(ip("192.0.2.1")), RateLimitAction::Respond);
        for n in 0..100_000 {
            let forged = Ipv4Addr::from_bits(0x0a00_0000 + (n << 8));
            limit.check(forged.into());
            if n % 1000 == 0 {
                assert_ne!(limit.check(ip("192.0.2.1")), RateLimitAction::Respond);
            }
        }
    }
}
