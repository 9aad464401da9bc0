//! External addresses: which addresses clients can dial, and how many the relay may announce.

use libp2p::{Multiaddr, multiaddr::Protocol};
use resource_manager::is_private;

/// Maximum number of external addresses.
///
/// Together with [`MAX_EXTERNAL_ADDRESSES_BYTES`] this keeps the answer to a RESERVE below the
/// 4,096 bytes that clients read: the peer id appended to each address takes 42 bytes (41 with an
/// Ed25519 key) and its framing 3, so that 16 × 45 + 2,560 leave more than 800 bytes for the voucher
/// and the rest.
pub const MAX_EXTERNAL_ADDRESSES: usize = 16;

/// Maximum total length of the announced addresses, in bytes of their binary form without peer ids.
pub const MAX_EXTERNAL_ADDRESSES_BYTES: usize = 2_560;

/// Maximum length of one announced address, in bytes; a DNS name of 249 characters fits.
const MAX_ADDRESS_BYTES: usize = 255;

/// Maximum length of a DNS name and of one of its labels, in characters.
const MAX_DNS_NAME_LENGTH: usize = 253;
const MAX_DNS_LABEL_LENGTH: usize = 63;

/// Checks that clients can dial the address once the relay's peer id is appended to it.
pub fn check_external_address(address: &Multiaddr) -> Result<(), &'static str> {
    const SHAPE: &str = "is not an address that clients can dial";
    let mut protocols = address.iter();
    match protocols.next() {
        Some(Protocol::Ip4(ip)) if ip.is_unspecified() => Err("is the unspecified address"),
        Some(Protocol::Ip6(ip)) if ip.is_unspecified() => Err("is the unspecified address"),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => Ok(()),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            if is_dns_name(&name) {
                Ok(())
            } else {
                Err("has no valid DNS name")
            }
        }
        _ => Err(SHAPE),
    }?;
    let rest: Vec<_> = protocols.collect();
    let port = match rest.as_slice() {
        [.., Protocol::P2p(_)] => return Err("must not end in a peer id: the relay adds its own"),
        [Protocol::Tcp(port)]
        | [Protocol::Tcp(port), Protocol::Tls, Protocol::Ws(_)]
        | [
            Protocol::Tcp(port),
            Protocol::Tls,
            Protocol::Sni(_),
            Protocol::Ws(_),
        ]
        | [Protocol::Tcp(port), Protocol::Ws(_) | Protocol::Wss(_)]
        | [Protocol::Udp(port), Protocol::QuicV1] => *port,
        _ => return Err(SHAPE),
    };
    // `/x-parity-ws/<path>` is parsed as the same protocol, and is unknown to other implementations.
    let has_path =
        |p: &Protocol<'_>| matches!(p, Protocol::Ws(path) | Protocol::Wss(path) if path != "/");
    if rest.iter().any(has_path) {
        return Err(SHAPE);
    }
    let has_bad_sni = |p: &Protocol<'_>| matches!(p, Protocol::Sni(name) if !is_dns_name(name));
    if rest.iter().any(has_bad_sni) {
        return Err("has no valid DNS name after `/sni`");
    }
    if port == 0 {
        return Err("has port 0, which cannot be dialled");
    }
    if address.len() > MAX_ADDRESS_BYTES {
        return Err("is longer than 255 bytes");
    }
    Ok(())
}

/// Domains without addresses that everybody resolves to the same host: reserved by RFC 6761, RFC 6762
/// and RFC 8375.
const LOCAL_DOMAINS: [&str; 5] = ["local", "localhost", "test", "invalid", "home.arpa"];

/// Whether clients anywhere on the internet may be able to dial the address: its IP address is public,
/// or its name is not of a domain reserved for local use. Clients of go-libp2p ignore other addresses.
pub fn is_public(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            !is_private(ip.into())
                && !ip.is_unspecified()
                && !ip.is_documentation()
                && !ip.is_multicast()
                && !ip.is_broadcast()
        }
        Some(Protocol::Ip6(ip)) => {
            let [first, second, ..] = ip.segments();
            // Global unicast, without the prefix for documentation.
            first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0xdb8)
        }
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let is_within = |domain: &&str| {
                let rest = name.strip_suffix(*domain);
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            !LOCAL_DOMAINS.iter().any(is_within)
        }
        _ => false,
    }
}

/// Letters, digits, hyphens and underscores, in labels of valid length.
pub fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=MAX_DNS_LABEL_LENGTH).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= MAX_DNS_NAME_LENGTH && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_local_networks_and_domains_are_not_public() {
        let is_public = |text: &str| is_public(&text.parse().unwrap());
        for text in [
            "/ip4/8.8.8.8/tcp/1",
            "/ip6/2606:4700::1/udp/1/quic-v1",
            "/dns4/relay.example.org/tcp/1",
            "/dns/mytest/tcp/1",
        ] {
            assert!(is_public(text), "{text}");
        }
        for text in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/192.0.2.1/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/dns4/relay.local/tcp/1",
            "/dns/Relay.Test./tcp/1",
            "/dns6/relay.home.arpa/tcp/1",
            "/dns/localhost/tcp/1",
        ] {
            assert!(!is_public(text), "{text}");
        }
    }
}
