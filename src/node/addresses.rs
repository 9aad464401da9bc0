//! Classification of listen addresses.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, UdpSocket},
};

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
pub(crate) fn own_addresses<'a>(listening: impl Iterator<Item = &'a Multiaddr>) -> Vec<Multiaddr> {
    let (loopback, others): (Vec<_>, Vec<_>) = listening.cloned().partition(is_loopback);
    if others.is_empty() { loopback } else { others }
}

/// Whether `address` is a loopback address.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| ip.is_loopback())
}

/// Whether `address` is link-local, so that dialling it requires an interface.
pub(crate) fn is_link_local(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    })
}

/// The addresses on which a listener on `address` is reachable, on a machine with these interface
/// addresses: one for each interface if `address` is the unspecified address.
pub(crate) fn on_interfaces(address: &Multiaddr, interfaces: &[IpAddr]) -> Vec<Multiaddr> {
    let Some(any) = ip_of(address).filter(IpAddr::is_unspecified) else {
        return vec![address.clone()];
    };
    interfaces
        .iter()
        .filter(|ip| ip.is_ipv4() == any.is_ipv4())
        .filter_map(|ip| address.replace(0, |_| Some((*ip).into())))
        .filter(|address| !is_link_local(address))
        .collect()
}

/// Why a listener on `address` failed: `cause`, or that the interfaces cannot be watched, which
/// `check_watcher` finds out.
pub(super) fn listen_failure(
    address: &Multiaddr,
    cause: String,
    check_watcher: impl FnOnce() -> io::Result<()>,
) -> String {
    if !ip_of(address).is_some_and(|ip| ip.is_unspecified()) {
        return cause;
    }
    match check_watcher() {
        Ok(()) => cause,
        Err(error) => format!(
            "the network interfaces cannot be watched, because netlink is not available ({error}): \
             allow sockets of the family AF_NETLINK, or set RELAY_LISTEN_ADDRESSES to the addresses of \
             the interfaces"
        ),
    }
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
    fn missing_netlink_is_the_cause_for_unspecified_addresses_only() {
        let failure = |address: &str, watcher: io::Result<()>| {
            let address = address.parse().unwrap();
            listen_failure(&address, "in use".to_owned(), || watcher)
        };
        let missing = || Err(io::ErrorKind::Unsupported.into());
        assert_eq!(failure("/ip4/0.0.0.0/tcp/1", Ok(())), "in use");
        assert_eq!(failure("/ip4/192.0.2.1/tcp/1", missing()), "in use");
        let text = failure("/ip6/::/udp/1/quic-v1", missing());
        assert!(text.contains("AF_NETLINK"), "{text}");
    }

    #[test]
    fn unspecified_address_stands_for_all_interfaces_of_its_family() {
        let interfaces = ["127.0.0.1", "192.0.2.1", "::1", "fe80::1"].map(|ip| ip.parse().unwrap());
        let on = |address: &str| on_interfaces(&address.parse().unwrap(), &interfaces);
        assert_eq!(
            join(on("/ip4/0.0.0.0/udp/9/quic-v1").iter()),
            "/ip4/127.0.0.1/udp/9/quic-v1,/ip4/192.0.2.1/udp/9/quic-v1"
        );
        assert_eq!(join(on("/ip6/::/tcp/9").iter()), "/ip6/::1/tcp/9");
        assert_eq!(
            join(on("/ip4/192.0.2.9/tcp/9").iter()),
            "/ip4/192.0.2.9/tcp/9"
        );
    }

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
