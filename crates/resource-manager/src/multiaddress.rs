//! IP addresses of multiaddresses.

use std::net::IpAddr;

use libp2p::{Multiaddr, multiaddr::Protocol};

/// The IP address at the start of `address`, if there is one.
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}
