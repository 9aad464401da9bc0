//! Use of one resource by each address prefix, and the prefixes beyond their share.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

use super::prefix::{Prefix, Share, Shares};
use crate::map_shrink::ShrinkIfSparse as _;

/// Use of a resource at which it becomes scarce, so that shares apply: three quarters of the
/// capacity, rounded up.
pub fn scarcity_threshold(capacity: u64) -> u64 {
    capacity - capacity / 4
}

/// Prefixes whose units may be evicted, with their use in millionths of their share.
pub type BeyondShare = HashMap<Prefix, u64>;

/// Beyond a full limit there is a reserve for prefixes that use little: this part of the limit.
const RESERVE: u64 = 8;

/// A prefix uses little if it uses at most this part of its share.
const SMALL_SHARE: u64 = 8;

/// The limit for prefixes that use [`little`] of their share, if `limit` is that of the others.
pub(super) fn with_reserve(limit: u64) -> u64 {
    limit.saturating_add(limit / RESERVE)
}

/// The use up to which a prefix with this share may use the [reserve](with_reserve).
pub(super) fn little(share: u64) -> u64 {
    share / SMALL_SHARE
}

/// Why a unit is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exceeded {
    /// The whole capacity is in use.
    Capacity,
    /// The resource is scarce, and a prefix of the address uses its share.
    Share,
}

/// Units of one resource that each address prefix uses.
#[derive(Debug, Default)]
pub struct Usage {
    total: u64,
    prefixes: HashMap<Prefix, u64>,
}

impl Usage {
    /// Total of units in use.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Units that `prefix` uses.
    pub fn of(&self, prefix: Prefix) -> u64 {
        self.prefixes.get(&prefix).copied().unwrap_or(0)
    }

    /// Adds a unit for `ip`. Without an address, it counts for the total only.
    pub fn add(&mut self, ip: Option<IpAddr>) {
        self.total += 1;
        for prefix in scopes(ip) {
            *self.prefixes.entry(prefix).or_default() += 1;
        }
    }

    /// Removes a unit that was [added](Self::add) for `ip`.
    pub fn remove(&mut self, ip: Option<IpAddr>) {
        self.total = self.total.saturating_sub(1);
        for prefix in scopes(ip) {
            let Some(count) = self.prefixes.get_mut(&prefix) else {
                continue;
            };
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.prefixes.remove(&prefix);
                self.prefixes.shrink_if_sparse();
            }
        }
    }

    /// Checks whether `ip` may use one more unit of `capacity`; `None` is unlimited.
    ///
    /// # Errors
    /// Whether the capacity or a share is used up.
    pub fn check(
        &self,
        ip: Option<IpAddr>,
        capacity: Option<u64>,
        shares: &Shares,
    ) -> Result<(), Exceeded> {
        let Some(capacity) = capacity else {
            return Ok(());
        };
        if self.total >= scarcity_threshold(capacity)
            && scopes(ip).any(|prefix| self.of(prefix) >= shares.of(prefix).part_of(capacity))
        {
            return Err(Exceeded::Share);
        }
        if self.total >= capacity {
            return Err(Exceeded::Capacity);
        }
        Ok(())
    }

    /// [`check`](Self::check), with a reserve beyond `capacity` for addresses whose prefixes use
    /// little of their share: several others within their shares can use up the capacity.
    pub fn check_with_reserve(
        &self,
        ip: IpAddr,
        capacity: Option<u64>,
        shares: &Shares,
    ) -> Result<(), Exceeded> {
        let checked = self.check(Some(ip), capacity, shares);
        let uses_little = |capacity: u64| {
            self.total < with_reserve(capacity)
                && Prefix::scopes(ip)
                    .all(|prefix| self.of(prefix) < little(shares.of(prefix).part_of(capacity)))
        };
        match capacity {
            Some(capacity) if checked.is_err() && uses_little(capacity) => Ok(()),
            _ => checked,
        }
    }

    /// Prefixes that use a larger part of their share of `capacity` than any prefix of `ip` would
    /// with one more unit. When the capacity is used up, they give way to `ip`, also if none of them
    /// is beyond its share. Without an address, these are the prefixes that use a larger part than a
    /// host with one unit.
    pub fn heavier_than(&self, ip: Option<IpAddr>, capacity: u64, shares: &Shares) -> BeyondShare {
        let part = |prefix| shares.of(prefix).part_of(capacity);
        let own = scopes(ip)
            .map(|prefix| millionths(self.of(prefix) + 1, part(prefix)))
            .max()
            .unwrap_or_else(|| millionths(1, Share::default().part_of(capacity)));
        let use_of = |(prefix, count): (&Prefix, &u64)| {
            let used = millionths(*count, part(*prefix));
            (used > own).then_some((*prefix, used))
        };
        self.prefixes.iter().filter_map(use_of).collect()
    }

    /// Prefixes that use more than their share of `capacity`, with their use in millionths of the
    /// share. There are few of them, because shares are large fractions.
    pub fn beyond_share(&self, capacity: u64, shares: &Shares) -> BeyondShare {
        let use_of = |(prefix, count): (&Prefix, &u64)| {
            let part = shares.of(*prefix).part_of(capacity);
            (*count > part).then(|| (*prefix, millionths(*count, part)))
        };
        self.prefixes.iter().filter_map(use_of).collect()
    }

    /// The host prefix that uses most units, with their number.
    pub fn largest(&self) -> Option<(Prefix, u64)> {
        self.prefixes
            .iter()
            .filter(|(prefix, _)| prefix.is_host())
            .map(|(prefix, count)| (*prefix, *count))
            .max_by_key(|(prefix, count)| (*count, Reverse(*prefix)))
    }
}

/// The largest use of its share by a prefix of the address, in millionths, among the prefixes that
/// [`Usage::beyond_share`] or [`Usage::heavier_than`] returned; `None` if it has none of these.
pub fn excess(ip: Option<IpAddr>, beyond: &BeyondShare) -> Option<u64> {
    if beyond.is_empty() {
        return None;
    }
    scopes(ip)
        .filter_map(|prefix| beyond.get(&prefix).copied())
        .max()
}

fn scopes(ip: Option<IpAddr>) -> impl Iterator<Item = Prefix> {
    ip.into_iter().flat_map(Prefix::scopes)
}

fn millionths(count: u64, part: u64) -> u64 {
    let ratio = u128::from(count) * 1_000_000 / u128::from(part.max(1));
    u64::try_from(ratio).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    fn check(usage: &Usage, ip: Option<IpAddr>) -> Result<(), Exceeded> {
        usage.check(ip, Some(100), &Shares::default())
    }

    #[test]
    fn shares_do_not_apply_below_three_quarters() {
        let mut usage = Usage::default();
        let one = ip("192.0.2.1");
        for _ in 0..75 {
            assert_eq!(check(&usage, one), Ok(()));
            usage.add(one);
        }
        assert_eq!(check(&usage, one), Err(Exceeded::Share));
        assert_eq!(check(&usage, ip("192.0.2.2")), Err(Exceeded::Share));
        for _ in 0..12 {
            assert_eq!(check(&usage, ip("198.51.100.1")), Ok(()));
            usage.add(ip("198.51.100.1"));
        }
        assert_eq!(check(&usage, ip("198.51.100.1")), Err(Exceeded::Share));
        for last in 2..15 {
            let ip = ip(&format!("198.51.100.{last}"));
            assert_eq!(
                check(&usage, ip).is_ok(),
                usage.of(Prefix::scopes(ip.unwrap()).last().unwrap()) < 25
            );
            if check(&usage, ip).is_ok() {
                usage.add(ip);
            }
        }
        assert_eq!(usage.total(), 100);
        assert_eq!(check(&usage, ip("203.0.113.1")), Err(Exceeded::Capacity));
        assert_eq!(check(&usage, None), Err(Exceeded::Capacity));
    }

    #[test]
    fn heavier_prefixes_give_way_to_lighter_ones_at_capacity() {
        let mut usage = Usage::default();
        for host in 1..=10 {
            let attacker = ip(&format!("192.{host}.2.1"));
            (0..10).for_each(|_| usage.add(attacker));
        }
        let shares = Shares::default();
        assert_eq!(
            check(&usage, ip("198.51.100.1")),
            Err(Exceeded::Capacity),
            "none is beyond its share"
        );
        assert!(usage.beyond_share(100, &shares).is_empty());
        let lighter = usage.heavier_than(ip("198.51.100.1"), 100, &shares);
        assert_eq!(excess(ip("192.1.2.1"), &lighter), Some(10 * 1_000_000 / 12));
        assert_eq!(excess(ip("198.51.100.2"), &lighter), None);
        let equal = usage.heavier_than(ip("192.1.2.1"), 100, &shares);
        assert!(equal.is_empty(), "{equal:?}");
        assert!(!usage.heavier_than(None, 100, &shares).is_empty());
    }

    #[test]
    fn reserve_is_for_addresses_that_use_little() {
        let mut usage = Usage::default();
        let shares = Shares::default();
        (0..1000).for_each(|_| usage.add(None));
        let little: IpAddr = "192.0.2.1".parse().unwrap();
        let reserved = |usage: &Usage| usage.check_with_reserve(little, Some(1000), &shares);
        for _ in 0..15 {
            assert_eq!(reserved(&usage), Ok(()));
            usage.add(Some(little));
        }
        assert_eq!(reserved(&usage), Err(Exceeded::Capacity));
        (0..110).for_each(|_| usage.add(None));
        let other = "198.51.100.1".parse().unwrap();
        assert_eq!(
            usage.check_with_reserve(other, Some(1000), &shares),
            Err(Exceeded::Capacity),
            "the reserve is used up"
        );
    }

    #[test]
    fn ipv6_48_has_a_half() {
        let mut usage = Usage::default();
        let mut taken = 0;
        for _ in 0..75 {
            usage.add(None);
        }
        for network in 0..25 {
            let ip = ip(&format!("2001:db8:1:{network:x}00::1"));
            if check(&usage, ip).is_ok() {
                usage.add(ip);
                taken += 1;
            }
        }
        assert_eq!(taken, 25, "each /56 has a quarter, the /48 a half");
        let beyond = usage.beyond_share(40, &Shares::default());
        let only: Vec<_> = beyond.keys().map(ToString::to_string).collect();
        assert_eq!(only, ["2001:db8:1::/48"]);
        assert_eq!(excess(ip("2001:db8:1::5"), &beyond), Some(1_250_000));
        assert_eq!(excess(ip("2001:db8:2::5"), &beyond), None);
    }

    #[test]
    fn unlimited_resources_have_no_shares() {
        let mut usage = Usage::default();
        for _ in 0..1000 {
            assert_eq!(
                usage.check(ip("192.0.2.1"), None, &Shares::default()),
                Ok(())
            );
            usage.add(ip("192.0.2.1"));
        }
        assert_eq!(usage.largest().map(|(_, count)| count), Some(1000));
    }

    proptest! {
        #[test]
        fn counts_equal_the_added_units(steps in prop::collection::vec((0..4_u8, 0..4_u8, any::<bool>()), 0..300)) {
            let mut usage = Usage::default();
            let mut held = Vec::new();
            for (net, host, adds) in steps {
                let ip = ip(&format!("192.0.{net}.{host}"));
                if adds && usage.check(ip, Some(40), &Shares::default()).is_ok() {
                    usage.add(ip);
                    held.push(ip);
                } else if let Some(ip) = held.pop() {
                    usage.remove(ip);
                }
                prop_assert!(usage.total() <= 40);
                prop_assert_eq!(usage.total(), held.len() as u64);
                let hosts: u64 = usage.prefixes.iter()
                    .filter(|(prefix, _)| prefix.length() == 32)
                    .map(|(_, count)| count)
                    .sum();
                prop_assert_eq!(hosts, usage.total());
            }
        }
    }
}
