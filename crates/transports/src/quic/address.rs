//! Conversion between QUIC multiaddresses and socket addresses.

use std::net::SocketAddr;

use libp2p::PeerId;
use libp2p::multiaddr::{Multiaddr, Protocol};

/// Parses `/ip4|ip6/<ip>/udp/<port>/quic-v1`, optionally followed by `/p2p/<id>`.
///
/// Returns `None` for any other address, for example of a circuit or WebTransport.
pub(super) fn parse(addr: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let mut protocols = addr.iter();
    let ip = match protocols.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let (Protocol::Udp(port), Protocol::QuicV1) = (protocols.next()?, protocols.next()?) else {
        return None;
    };
    let peer = match protocols.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return None,
    };
    if protocols.next().is_some() {
        return None;
    }
    Some((SocketAddr::new(ip, port), peer))
}

/// Formats `/ip4|ip6/<ip>/udp/<port>/quic-v1`.
pub(super) fn format(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip())
        .with(Protocol::Udp(addr.port()))
        .with(Protocol::QuicV1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn formatted_address_is_parsed() {
        for addr in [
            "/ip4/192.0.2.1/udp/9000/quic-v1",
            "/ip6/2001:db8::1/udp/1/quic-v1",
        ] {
            let addr: Multiaddr = addr.parse().unwrap();
            let (socket, peer) = parse(&addr).unwrap();
            assert_eq!((format(socket), peer), (addr, None));
        }
    }

    #[test]
    fn peer_id_is_parsed() {
        let addr = format!("/ip4/192.0.2.1/udp/9000/quic-v1/p2p/{PEER}");
        let (socket, peer) = parse(&addr.parse().unwrap()).unwrap();
        assert_eq!(socket, "192.0.2.1:9000".parse().unwrap());
        assert_eq!(peer, Some(PEER.parse().unwrap()));
    }

    #[test]
    fn other_addresses_are_not_supported() {
        for addr in [
            "/ip4/192.0.2.1",
            "/ip4/192.0.2.1/udp/9000",
            "/ip4/192.0.2.1/tcp/9000",
            "/ip4/192.0.2.1/udp/9000/quic",
            "/dns4/relay.example/udp/9000/quic-v1",
            "/ip4/192.0.2.1/udp/9000/quic-v1/webtransport",
            &format!("/ip4/192.0.2.1/udp/9000/quic-v1/p2p/{PEER}/p2p-circuit"),
        ] {
            assert_eq!(parse(&addr.parse().unwrap()), None, "{addr}");
        }
    }
}
