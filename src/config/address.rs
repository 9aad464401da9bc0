//! Lists of multiaddrs: where to listen, and what to announce.

use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::error::quote;
use super::list::{items, join};
use super::value_format::ValueFormat;

/// Maximum number of addresses that can be announced.
///
/// Together with [`MAX_EXTERNAL_ADDRESSES_BYTES`] this keeps the answer to a RESERVE below the
/// 4,096 bytes that clients read: the peer id appended to each address takes 41 bytes and its
/// framing 3, so that 16 × 44 + 2,560 leave more than 800 bytes for the voucher and the rest.
pub const MAX_EXTERNAL_ADDRESSES: usize = 16;

/// Maximum number of bytes, in binary form and without peer ids, of all announced addresses together.
pub const MAX_EXTERNAL_ADDRESSES_BYTES: usize = 2_560;

/// Maximum number of bytes of one announced address; a DNS name of 249 characters fits.
const MAX_ADDRESS_BYTES: usize = 255;

/// Maximum number of characters of a DNS name, and of one label of it.
const MAX_DNS_NAME_LENGTH: usize = 253;
const MAX_DNS_LABEL_LENGTH: usize = 63;

/// Where to listen.
pub(super) struct ListenAddresses;

impl ValueFormat for ListenAddresses {
    type Value = Vec<Multiaddr>;

    fn allowed(&self) -> String {
        "a comma-separated list of `/ip4/…/tcp/…`, `/ip4/…/tcp/…/ws` and \
         `/ip4/…/udp/…/quic-v1`, or the same with `/ip6`"
            .to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let mut addresses = Vec::new();
        let mut sockets = Vec::new();
        for item in items(text) {
            let problem = |what: &str| format!("contains {}, which {what}", quote(item));
            let address = parse_item(item).map_err(|what| problem(&what))?;
            let socket = listen_socket(&address)
                .ok_or_else(|| problem("is not of a kind that the relay can listen on"))?;
            // Port 0 lets the system choose, a different one each time.
            let taken = socket.port != 0 && sockets.contains(&socket);
            if taken || addresses.contains(&address) {
                return Err(problem("needs a port that another item takes already"));
            }
            sockets.push(socket);
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err("contains no address".to_owned());
        }
        Ok(addresses)
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}

/// What to announce.
pub(super) struct ExternalAddresses;

impl ValueFormat for ExternalAddresses {
    type Value = Vec<Multiaddr>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_EXTERNAL_ADDRESSES} multiaddrs that start with \
             `/ip4`, `/ip6`, `/dns`, `/dns4` or `/dns6` and go on with `/tcp/…`, `/tcp/…/ws`, \
             `/tcp/…/tls/ws`, `/tcp/…/wss` or `/udp/…/quic-v1`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let mut addresses = Vec::new();
        for item in items(text) {
            let problem = |what: &str| format!("contains {}, which {what}", quote(item));
            let address = parse_item(item).map_err(|what| problem(&what))?;
            check_external(&address).map_err(problem)?;
            if addresses.contains(&address) {
                return Err(problem("is there twice"));
            }
            addresses.push(address);
            if addresses.len() > MAX_EXTERNAL_ADDRESSES {
                return Err(format!(
                    "contains more than {MAX_EXTERNAL_ADDRESSES} addresses"
                ));
            }
        }
        let total: usize = addresses.iter().map(Multiaddr::len).sum();
        if total > MAX_EXTERNAL_ADDRESSES_BYTES {
            return Err(format!(
                "takes {total} bytes in all, more than the {MAX_EXTERNAL_ADDRESSES_BYTES} that \
                 fit into an answer"
            ));
        }
        Ok(addresses)
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}

/// What a listen address binds.
#[derive(PartialEq, Eq)]
struct BoundSocket {
    ip: IpAddr,
    udp: bool,
    port: u16,
}

/// `None` unless the address has one of the shapes that the relay can listen on.
fn listen_socket(address: &Multiaddr) -> Option<BoundSocket> {
    let mut protocols = address.iter();
    let ip = match protocols.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let rest: Vec<_> = protocols.collect();
    match rest.as_slice() {
        [Protocol::Tcp(port)] => Some(BoundSocket {
            ip,
            udp: false,
            port: *port,
        }),
        [Protocol::Tcp(port), Protocol::Ws(path)] if path == "/" => Some(BoundSocket {
            ip,
            udp: false,
            port: *port,
        }),
        [Protocol::Udp(port), Protocol::QuicV1] => Some(BoundSocket {
            ip,
            udp: true,
            port: *port,
        }),
        _ => None,
    }
}

/// Whether clients can use the address once the relay's peer id is appended to it.
pub(crate) fn check_external(address: &Multiaddr) -> Result<(), &'static str> {
    const SHAPE: &str = "is not of a kind that clients can dial";
    let mut protocols = address.iter();
    match protocols.next() {
        Some(Protocol::Ip4(ip)) if ip.is_unspecified() => Err("is not the address of a machine"),
        Some(Protocol::Ip6(ip)) if ip.is_unspecified() => Err("is not the address of a machine"),
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
        | [Protocol::Tcp(port), Protocol::Ws(_) | Protocol::Wss(_)]
        | [Protocol::Udp(port), Protocol::QuicV1] => *port,
        _ => return Err(SHAPE),
    };
    // `/x-parity-ws/<path>` is the same protocol to the library, and unknown to other clients.
    let has_path =
        |p: &Protocol<'_>| matches!(p, Protocol::Ws(path) | Protocol::Wss(path) if path != "/");
    if rest.iter().any(has_path) {
        return Err(SHAPE);
    }
    if port == 0 {
        return Err("has port 0, which cannot be dialled");
    }
    if address.len() > MAX_ADDRESS_BYTES {
        return Err("is longer than 255 bytes");
    }
    Ok(())
}

/// Letters, digits, hyphens and underscores in labels that are neither empty nor too long.
pub(super) fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=MAX_DNS_LABEL_LENGTH).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= MAX_DNS_NAME_LENGTH && name.split('.').all(label)
}

fn parse_item(item: &str) -> Result<Multiaddr, String> {
    item.parse()
        .map_err(|error| format!("is not a multiaddr ({error})"))
}
