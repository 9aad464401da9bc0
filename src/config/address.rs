//! Formats of lists of multiaddrs: listen addresses and external addresses.

use std::net::IpAddr;

use fleet_dns::external_address::{
    MAX_EXTERNAL_ADDRESSES, MAX_EXTERNAL_ADDRESSES_BYTES, check_external_address,
};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use peer_id_text::parse_multiaddr;

use super::list::{item_problem, items, join};
use super::value_format::ValueFormat;

/// Listen addresses.
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
            let problem = |what: &str| item_problem(text, item, what);
            let address = parse_item(item).map_err(|what| problem(&what))?;
            let socket = listen_socket(&address)
                .ok_or_else(|| problem("is not a listen address that the relay supports"))?;
            // Port 0 lets the system choose a different port each time.
            let taken = socket.port != 0 && sockets.contains(&socket);
            if taken || addresses.contains(&address) {
                return Err(problem("uses the port of another item"));
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

/// External addresses.
pub(super) struct ExternalAddresses;

impl ValueFormat for ExternalAddresses {
    type Value = Vec<Multiaddr>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_EXTERNAL_ADDRESSES} multiaddrs that start with \
             `/ip4`, `/ip6`, `/dns`, `/dns4` or `/dns6` and go on with `/tcp/…`, `/tcp/…/ws`, \
             `/tcp/…/tls/ws`, `/tcp/…/tls/sni/…/ws`, `/tcp/…/wss` or `/udp/…/quic-v1`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let mut addresses = Vec::new();
        for item in items(text) {
            let problem = |what: &str| item_problem(text, item, what);
            let address = parse_item(item).map_err(|what| problem(&what))?;
            check_external_address(&address).map_err(problem)?;
            if addresses.contains(&address) {
                return Err(problem("occurs twice"));
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
                "takes {total} bytes in total, more than the {MAX_EXTERNAL_ADDRESSES_BYTES} that \
                 fit into a response"
            ));
        }
        Ok(addresses)
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}

/// The socket that a listen address binds.
#[derive(PartialEq, Eq)]
struct BoundSocket {
    ip: IpAddr,
    udp: bool,
    port: u16,
}

/// `None` unless the relay can listen on an address of this form.
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

/// Whether the address is one of QUIC.
pub(super) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

fn parse_item(item: &str) -> Result<Multiaddr, String> {
    parse_multiaddr(item).map_err(|error| format!("is not a multiaddr ({error})"))
}
