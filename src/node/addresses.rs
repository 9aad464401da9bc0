//! Classification of listen addresses.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use libp2p::Multiaddr;
use resource_manager::ip_of;

/// Whether this machine supports IPv6.
pub(super) fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// Whether `address` is the unspecified IPv6 address.
pub(super) fn is_any_ipv6(address: &Multiaddr) -> bool {
    ip_of(address) == Some(Ipv6Addr::UNSPECIFIED.into())
}

/// The addresses of `listening` that other machines may be able to dial; loopback addresses only if
/// there are no others.
pub(super) fn own_addresses<'a>(listening: impl Iterator<Item = &'a Multiaddr>) -> Vec<Multiaddr> {
    let (loopback, others): (Vec<_>, Vec<_>) = listening.cloned().partition(is_loopback);
    if others.is_empty() { loopback } else { others }
}

/// Whether `address` is a loopback address.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| ip.is_loopback())
}

/// Whether `address` is link-local, so that dialling it requires an interface.
pub(super) fn is_link_local(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    })
}

/// Joins addresses with commas, as in the configuration.
pub(super) fn join<'a>(addresses: impl Iterator<Item = &'a Multiaddr>) -> String {
    addresses
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_announced_only_without_other_addresses() {
        let addresses = |texts: &[&str]| -> Vec<Multiaddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let loopback = addresses(&["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]);
        let others = addresses(&["/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/udp/1/quic-v1"]);
        assert_eq!(own_addresses(loopback.iter()), loopback);
        assert_eq!(own_addresses(loopback.iter().chain(&others)), others);
    }
}
