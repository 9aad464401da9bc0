//! Address prefixes, and their shares of resources under scarcity.
//!
//! A subscriber of an internet provider has an IPv4 address or an IPv6 /64, often a /56; a hosting
//! customer has a /24 or a /48. An IP address therefore belongs to one *scope* of each of these
//! lengths, and its use of a resource counts for all of them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// Lengths of IPv4 prefixes with a share, longest first.
const V4_LENGTHS: [u8; 2] = [32, 24];
/// Lengths of IPv6 prefixes with a share, longest first.
const V6_LENGTHS: [u8; 3] = [64, 56, 48];
/// Maximum number of scopes of an address.
pub const MAX_SCOPES: usize = 3;

/// A network prefix with a share: an IPv4 /32 or /24, or an IPv6 /64, /56 or /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    network: IpAddr,
    length: u8,
}

impl Prefix {
    /// Prefixes of `ip`, longest first. An IPv4-mapped address counts as IPv4.
    pub fn scopes(ip: IpAddr) -> impl Iterator<Item = Self> + Clone {
        let ip = ip.to_canonical();
        let lengths: &'static [u8] = match ip {
            IpAddr::V4(_) => &V4_LENGTHS,
            IpAddr::V6(_) => &V6_LENGTHS,
        };
        lengths.iter().map(move |length| Self::of(ip, *length))
    }

    /// The longest prefix of `ip`, which one host or subscriber has.
    pub fn host(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        match ip {
            IpAddr::V4(_) => Self::of(ip, 32),
            IpAddr::V6(_) => Self::of(ip, 64),
        }
    }

    fn of(ip: IpAddr, length: u8) -> Self {
        let network = match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        };
        Self { network, length }
    }

    /// Whether `ip` is in this prefix.
    pub fn contains(self, ip: IpAddr) -> bool {
        Self::scopes(ip).any(|scope| scope == self)
    }

    /// Whether the prefix has the longest length, that of one host or subscriber.
    pub fn is_host(self) -> bool {
        matches!(self.length, 32 | 64)
    }

    /// Length in bits.
    pub fn length(self) -> u8 {
        self.length
    }

    /// First address of the network.
    pub fn network(self) -> IpAddr {
        self.network
    }
}

/// `192.0.2.0/24`. For the operator only: neither logs nor telemetry contain addresses of clients.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// A fraction of a resource, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// The default share of a host: an eighth.
impl Default for Share {
    fn default() -> Self {
        Self(125_000)
    }
}

impl Share {
    /// All of the resource: the prefix has no limit apart from the total.
    pub const ALL: Self = Self(1_000_000);

    /// `numerator / denominator`, rounded down to a millionth; `None` unless it is greater than 0
    /// and at most 1.
    pub fn of(numerator: u32, denominator: u32) -> Option<Self> {
        let millionths = u64::from(numerator) * 1_000_000 / u64::from(denominator.max(1));
        let millionths = u32::try_from(millionths).ok()?;
        (denominator > 0 && (1..=1_000_000).contains(&millionths)).then_some(Self(millionths))
    }

    /// This fraction of `capacity`, at least 1.
    pub fn part_of(self, capacity: u64) -> u64 {
        let part = u128::from(capacity) * u128::from(self.0) / 1_000_000;
        u64::try_from(part).unwrap_or(u64::MAX).max(1)
    }
}

/// A percentage with at most four decimal places: `12.5%`.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl std::str::FromStr for Share {
    type Err = &'static str;

    /// Parses `1/8`, `12.5%` or `100%`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "a share is a fraction like 1/8 or a percentage like 12.5%, greater than 0 and at most 100%";
        let share = if let Some((numerator, denominator)) = text.split_once('/') {
            let parse = |part: &str| part.trim().parse().ok();
            parse(numerator)
                .zip(parse(denominator))
                .and_then(|(numerator, denominator)| Self::of(numerator, denominator))
        } else {
            let (whole, decimals) = {
                let number = text.strip_suffix('%').ok_or(ALLOWED)?.trim_end();
                number.split_once('.').unwrap_or((number, ""))
            };
            let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            if whole.is_empty() || decimals.len() > 4 || !is_number(whole) || !is_number(decimals) {
                return Err(ALLOWED);
            }
            format!("{whole}{decimals:0<4}")
                .parse()
                .ok()
                .and_then(|millionths| Self::of(millionths, 1_000_000))
        };
        share.ok_or(ALLOWED)
    }
}

/// Shares of all prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    overrides: Vec<(IpNet, Share)>,
}

impl Shares {
    /// The defaults, except for these networks: every prefix within a network has its share. The
    /// most specific network applies.
    pub fn new(overrides: Vec<(IpNet, Share)>) -> Self {
        Self { overrides }
    }

    /// Networks whose shares differ from the defaults.
    pub fn overrides(&self) -> &[(IpNet, Share)] {
        &self.overrides
    }

    /// Share of `prefix`. The default is an eighth for a host, a quarter for an IPv4 /24 or an IPv6
    /// /56, and a half for an IPv6 /48. A network that contains the prefix overrides it; a network
    /// within the prefix raises it.
    pub fn of(&self, prefix: Prefix) -> Share {
        let default = match prefix.length {
            32 | 64 => Share::default(),
            24 | 56 => Share(250_000),
            _ => Share(500_000),
        };
        let contains = |network: &IpNet| network.contains(&prefix.network);
        let enclosing = self
            .overrides
            .iter()
            .filter(|(network, _)| contains(network) && network.prefix_len() <= prefix.length)
            .max_by_key(|(network, _)| network.prefix_len());
        if let Some((_, share)) = enclosing {
            return *share;
        }
        // A host with a larger share needs the same share for all of its prefixes.
        let within = |network: &IpNet| {
            network.prefix_len() > prefix.length
                && Prefix::of(network.network(), prefix.length).network == prefix.network
        };
        let within = self.overrides.iter().filter(|(network, _)| within(network));
        within
            .map(|(_, share)| *share)
            .max()
            .map_or(default, |share| share.max(default))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(ip: &str, length: u8) -> Prefix {
        Prefix::of(ip.parse().unwrap(), length)
    }

    fn share(text: &str) -> Share {
        text.parse().unwrap()
    }

    #[test]
    fn address_belongs_to_each_of_its_prefixes() {
        let scopes = |ip: &str| -> Vec<_> {
            Prefix::scopes(ip.parse().unwrap())
                .map(|prefix| prefix.to_string())
                .collect()
        };
        assert_eq!(scopes("192.0.2.7"), ["192.0.2.7/32", "192.0.2.0/24"]);
        assert_eq!(scopes("::ffff:192.0.2.7"), scopes("192.0.2.7"));
        assert_eq!(
            scopes("2001:db8:1:2345::1"),
            [
                "2001:db8:1:2345::/64",
                "2001:db8:1:2300::/56",
                "2001:db8:1::/48"
            ]
        );
    }

    #[test]
    fn shares_have_defaults_by_length() {
        let shares = Shares::default();
        for (prefix, expected) in [
            (prefix("192.0.2.7", 32), "12.5%"),
            (prefix("192.0.2.7", 24), "25%"),
            (prefix("2001:db8::", 64), "12.5%"),
            (prefix("2001:db8::", 56), "25%"),
            (prefix("2001:db8::", 48), "50%"),
        ] {
            assert_eq!(shares.of(prefix).to_string(), expected, "{prefix}");
        }
    }

    #[test]
    fn most_specific_network_applies() {
        let networks = [("100.64.0.0/10", "1/2"), ("100.64.1.0/24", "100%")];
        let shares = Shares::new(
            networks
                .map(|(network, part)| (network.parse().unwrap(), share(part)))
                .to_vec(),
        );
        assert_eq!(shares.of(prefix("100.64.2.1", 32)), share("50%"));
        assert_eq!(shares.of(prefix("100.64.1.1", 32)), Share::ALL);
        assert_eq!(shares.of(prefix("100.64.1.1", 24)), Share::ALL);
        assert_eq!(shares.of(prefix("192.0.2.1", 32)), share("1/8"));
    }

    #[test]
    fn larger_share_of_a_host_raises_those_of_its_prefixes() {
        let shares = Shares::new(vec![("192.0.2.7/32".parse().unwrap(), Share::ALL)]);
        assert_eq!(shares.of(prefix("192.0.2.7", 32)), Share::ALL);
        assert_eq!(shares.of(prefix("192.0.2.7", 24)), Share::ALL);
        assert_eq!(shares.of(prefix("192.0.2.8", 32)), share("1/8"));
    }

    #[test]
    fn shares_are_fractions_or_percentages() {
        assert_eq!(share("1/8"), share("12.5%"));
        assert_eq!(share("1/1"), Share::ALL);
        assert_eq!(share(" 3 / 4 ").to_string(), "75%");
        assert_eq!(share("0.0001%").part_of(2_000_000), 2);
        for text in [
            "", "0", "0%", "1", "9/8", "1/0", "101%", "1.23456%", "-1%", "%", "x/y", "1e1%",
        ] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn ipv4_mapped_addresses_are_ipv4(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(Prefix::host(v4.into()).network(), IpAddr::from(v4));
            prop_assert_eq!(Prefix::host(v4.to_ipv6_mapped().into()).network(), IpAddr::from(v4));
        }

        #[test]
        fn hosts_of_an_ipv6_64_share_a_prefix(bits in any::<u128>(), host in any::<u64>(), bit in 64..128_u32) {
            let ip = |bits| IpAddr::from(Ipv6Addr::from_bits(bits));
            prop_assume!(ip(bits).to_canonical().is_ipv6());
            let same = bits >> 64 << 64 | u128::from(host);
            prop_assume!(ip(same).to_canonical().is_ipv6());
            prop_assert_eq!(Prefix::host(ip(bits)), Prefix::host(ip(same)));
            prop_assert_ne!(Prefix::host(ip(bits)), Prefix::host(ip(bits ^ 1 << bit)));
        }
    }
}
