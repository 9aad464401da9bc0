//! The response-rate limit: how many answers one network gets over UDP.
//!
//! The sender of a packet may be forged, to have the answers sent to a victim. So a network gets
//! only so many answers a second. Beyond that, one packet in two gets a truncated answer, not
//! longer than the question, which sends a real client to TCP, where nobody can forge an address:
//! it gets through while somebody else uses its name. The rest gets silence.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
};

use crate::rate::{Limiter, Rate, Unit};

/// The network that an address belongs to: a /24 of IPv4 or a /56 of IPv6, as little as one
/// customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(u64);

impl From<IpAddr> for ClientNetwork {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self(u64::from(Ipv4Addr::to_bits(ip) >> 8)),
            // The first bytes of IPv6 as a number, above those of all IPv4.
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments().map(u64::from);
                let prefix = (a << 48 | b << 32 | c << 16 | d) >> 8;
                Self(1 << 56 | prefix)
            }
        }
    }
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitAction {
    /// It is answered.
    Respond,
    /// It is told to come back over TCP.
    Truncate,
    /// It is dropped.
    Drop,
}

/// How many answers each network gets. Networks are remembered as a [`Limiter`] does it: forged ones
/// that are only seen now and then do no harm to anybody, and one that is flooded is not forgotten.
#[derive(Debug)]
pub struct ResponseRateLimit(Option<Limiter<ClientNetwork>>);

impl ResponseRateLimit {
    /// At most so many answers a second to a network, and so many at once; `None` = no limit.
    pub fn new(per_second: Option<usize>) -> Self {
        Self(per_second.map(|rate| {
            let rate = u32::try_from(rate).unwrap_or(u32::MAX).min(Rate::MOST);
            let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
            Limiter::new(Rate {
                burst: rate,
                refill: rate,
                per: Unit::Second,
            })
        }))
    }

    /// What is to be done with a packet that comes from `ip` now.
    pub fn check(&self, ip: IpAddr) -> RateLimitAction {
        match &self.0 {
            Some(limiter) if !limiter.allows(&ip.into()) => {
                // By chance: who asks in rotation with somebody else must not get silence alone.
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

    /// What so many packets get, at one moment: answers, truncated ones.
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
    async fn a_network_gets_so_many_answers_a_second() {
        let limit = ResponseRateLimit::new(Some(10));
        let (answers, truncated) = flood(&limit, "192.0.2.1", 1010);
        assert_eq!(answers, 10);
        // Every other one, within seven deviations.
        assert!((390..=610).contains(&truncated), "{truncated}");
        advance(Duration::from_millis(550)).await;
        assert_eq!(flood(&limit, "192.0.2.1", 30).0, 5);
        advance(Duration::from_secs(60)).await;
        assert_eq!(flood(&limit, "192.0.2.1", 100).0, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn networks_do_not_share() {
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
    fn no_limit_is_none() {
        let limit = ResponseRateLimit::new(None);
        assert_eq!(flood(&limit, "::1", 1000), (1000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flooded_network_stays_limited_among_forged_ones() {
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
