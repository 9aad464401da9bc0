//! The response-rate limit: how many answers one network gets over UDP.
//!
//! The sender of a packet may be forged, to have the answers sent to a victim. So a network gets
//! only so many answers a second. Beyond that, every other packet gets a truncated answer, not
//! longer than the question, which sends a real client to TCP, where nobody can forge an address:
//! it gets through while somebody else uses its name. The rest gets silence.

use std::{
    hash::RandomState,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use hashlink::LruCache;

/// Networks that are remembered, some 64 bytes each; the one that was not heard of for the longest
/// time is forgotten first. Forged ones that are only seen now and then do no harm to anybody, and
/// one that is flooded is never the oldest.
const MAX_NETWORKS: usize = 65_536;
/// Of so many packets beyond the limit, one gets a truncated answer.
const SLIP: u32 = 2;
/// As much as is allowed in this time may come at once.
const BURST: Duration = Duration::from_secs(1);

/// The network that an address belongs to: a /24 of IPv4 or a /56 of IPv6, as little as one
/// customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(u64);

impl From<IpAddr> for Network {
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
pub enum Verdict {
    /// It is answered.
    Answer,
    /// It is told to come back over TCP.
    Truncate,
    /// It is dropped.
    Drop,
}

/// How many answers each network has got.
#[derive(Debug)]
pub struct RateLimit {
    /// The time that one answer takes off a network's allowance; `None` = no limit.
    cost: Option<Duration>,
    networks: LruCache<Network, Allowance, RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    /// When nothing is left to be paid for.
    paid_at: Instant,
    /// Packets beyond the limit since the last one within it.
    beyond: u32,
}

impl RateLimit {
    /// At most so many answers a second to a network; `None` = no limit.
    pub fn new(per_second: Option<usize>) -> Self {
        let per_second = per_second.and_then(|rate| u32::try_from(rate).ok());
        Self {
            cost: per_second.map(|rate| BURST / rate.max(1)),
            networks: LruCache::with_hasher(MAX_NETWORKS, RandomState::new()),
        }
    }

    /// What is to be done with a packet that comes from `ip` at `now`.
    pub fn check(&mut self, ip: IpAddr, now: Instant) -> Verdict {
        let Some(cost) = self.cost else {
            return Verdict::Answer;
        };
        let network = Network::from(ip);
        let mut allowance = self.networks.get(&network).copied().unwrap_or(Allowance {
            paid_at: now,
            beyond: 0,
        });
        let paid_at = allowance.paid_at.max(now) + cost;
        let verdict = if paid_at <= now + BURST {
            allowance = Allowance { paid_at, beyond: 0 };
            Verdict::Answer
        } else {
            allowance.beyond = allowance.beyond.wrapping_add(1);
            if allowance.beyond.is_multiple_of(SLIP) {
                Verdict::Truncate
            } else {
                Verdict::Drop
            }
        };
        self.networks.insert(network, allowance);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What so many packets get, at one moment: answers, truncated ones.
    fn flood(limit: &mut RateLimit, from: &str, packets: usize, now: Instant) -> (usize, usize) {
        let verdicts: Vec<_> = (0..packets).map(|_| limit.check(ip(from), now)).collect();
        let count = |wanted| {
            verdicts
                .iter()
                .filter(|verdict| **verdict == wanted)
                .count()
        };
        (count(Verdict::Answer), count(Verdict::Truncate))
    }

    #[test]
    fn a_network_gets_so_many_answers_a_second() {
        let mut limit = RateLimit::new(Some(10));
        let start = Instant::now();
        assert_eq!(flood(&mut limit, "192.0.2.1", 30, start), (10, 10));
        let after = |seconds| start + Duration::from_secs_f64(seconds);
        assert_eq!(flood(&mut limit, "192.0.2.1", 30, after(0.55)), (5, 12));
        assert_eq!(flood(&mut limit, "192.0.2.1", 100, after(60.0)).0, 10);
    }

    #[test]
    fn networks_do_not_share() {
        let mut limit = RateLimit::new(Some(1));
        let now = Instant::now();
        for (first, same, other) in [
            ("192.0.2.1", "192.0.2.255", "192.0.3.1"),
            (
                "2001:db8:0:100::1",
                "2001:db8:0:1ff::1",
                "2001:db8:0:200::1",
            ),
            ("::ffff:203.0.113.1", "203.0.113.9", "::203.0.113.1"),
        ] {
            assert_eq!(limit.check(ip(first), now), Verdict::Answer);
            assert_ne!(limit.check(ip(same), now), Verdict::Answer, "{same}");
            assert_eq!(limit.check(ip(other), now), Verdict::Answer, "{other}");
        }
    }

    #[test]
    fn no_limit_is_none() {
        let mut limit = RateLimit::new(None);
        assert_eq!(flood(&mut limit, "::1", 1000, Instant::now()), (1000, 0));
        assert!(limit.networks.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_a_flooded_network_stays_limited() {
        let mut limit = RateLimit::new(Some(1));
        let now = Instant::now();
        assert_eq!(limit.check(ip("192.0.2.1"), now), Verdict::Answer);
        for n in 0..2 * u32::try_from(MAX_NETWORKS).unwrap() {
            let from = Ipv4Addr::from_bits(0x0a00_0000 + (n << 8));
            limit.check(from.into(), now);
            if n % 1000 == 0 {
                assert_ne!(limit.check(ip("192.0.2.1"), now), Verdict::Answer);
            }
        }
        assert!(limit.networks.len() <= MAX_NETWORKS);
    }
}
