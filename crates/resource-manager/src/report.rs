//! Use of each resource, and the address prefix that uses most of it.

use std::net::IpAddr;

use named_enum::named_enum;

use super::{
    prefix::Prefix,
    usage::{Usage, scarcity_threshold},
};

named_enum! {
    /// A resource of which each address prefix has a share.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Resource {
        /// Connections in their handshake.
        Handshakes = "handshakes",
        /// Established connections.
        Connections = "connections",
        /// File descriptors of connections.
        FileDescriptors = "file_descriptors",
        /// Bytes in buffers of connections.
        Buffers = "buffers",
        /// Reservations.
        Reservations = "reservations",
        /// Circuits, counted for their sources.
        Circuits = "circuits",
    }
}

/// Current use of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceUse {
    /// The resource.
    pub resource: Resource,
    /// Units in use: bytes for [`Resource::Buffers`], otherwise a count.
    pub used: u64,
    /// Capacity in units; `None` is unlimited.
    pub limit: Option<u64>,
    /// The host prefix that uses most, with its units.
    pub largest: Option<(Prefix, u64)>,
}

impl ResourceUse {
    /// The use of `resource` by `usage`, with its `limit`; `None` is unlimited.
    pub fn of(resource: Resource, usage: &Usage, limit: Option<u64>) -> Self {
        Self {
            resource,
            used: usage.total(),
            limit,
            largest: usage.largest(),
        }
    }

    /// Whether the resource is scarce, so that shares apply.
    pub fn is_scarce(&self) -> bool {
        self.limit
            .is_some_and(|limit| self.used >= scarcity_threshold(limit))
    }

    /// The host prefix that uses more than half of all units in use, if that is more than a few.
    pub fn majority(&self) -> Option<Prefix> {
        /// A few clients behind one address are not worth reporting.
        const FEW: u64 = 8;
        let (prefix, units) = self.largest?;
        (units > FEW && units > self.used / 2).then_some(prefix)
    }
}

/// Whether `ip` is the address of a proxy or in a local network: clients from the public internet
/// never have such an address.
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let is_shared = a == 100 && b & 0xc0 == 64;
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_local_networks_and_carrier_nat_are_private() {
        for ip in [
            "10.1.2.3",
            "172.17.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "100.128.0.1",
            "100.63.0.1",
            "192.0.2.1",
            "2001:db8::1",
            "172.32.0.1",
        ] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn majority_is_more_than_half_and_more_than_a_few() {
        let report = |counts: &[(&str, usize)]| {
            let mut usage = Usage::default();
            for (ip, count) in counts {
                (0..*count).for_each(|_| usage.add(Some(ip.parse().unwrap())));
            }
            let report = ResourceUse::of(Resource::Connections, &usage, Some(20));
            (
                report.majority().map(|prefix| prefix.to_string()),
                report.is_scarce(),
            )
        };
        assert_eq!(report(&[("10.0.0.1", 8)]), (None, false));
        assert_eq!(report(&[("10.0.0.1", 9), ("192.0.2.1", 9)]), (None, true));
        let majority = Some("10.0.0.1/32".to_owned());
        assert_eq!(
            report(&[("10.0.0.1", 9), ("192.0.2.1", 4)]),
            (majority, false)
        );
    }
}
