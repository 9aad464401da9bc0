//! Addresses as arguments, and what to write instead of other forms.

use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;

/// The relay's default port.
const DEFAULT_PORT: u16 = 9000;

/// Parses a multiaddr.
///
/// # Errors
/// The problem, and the multiaddr to write for a URL or a host with a port.
pub(super) fn parse(text: &str) -> Result<Multiaddr, String> {
    let error = match text.parse() {
        Ok(address) if text.starts_with('/') => return Ok(address),
        Ok(_) => String::new(),
        Err(error) => format!(" ({error})"),
    };
    Err(match suggestion(text) {
        Some(suggestion) => format!("not a multiaddr; write {suggestion}"),
        None => format!("not a multiaddr{error}, such as /dns/relay.example.org/tcp/9000"),
    })
}

fn suggestion(text: &str) -> Option<String> {
    for (scheme, port, websocket) in [
        ("https://", 443, "tls/ws"),
        ("wss://", 443, "tls/ws"),
        ("http://", 80, "ws"),
        ("ws://", 80, "ws"),
    ] {
        if let Some(rest) = text.strip_prefix(scheme) {
            let authority = rest.split('/').next()?;
            let (host, given) = host_and_port(authority)?;
            let port = given.unwrap_or(port);
            return Some(format!("{host}/tcp/{port}/{websocket}"));
        }
    }
    let (host, port) = host_and_port(text)?;
    let port = port.unwrap_or(DEFAULT_PORT);
    Some(format!(
        "{host}/tcp/{port} for TCP, {host}/tcp/{port}/ws for WebSocket, {host}/udp/{port}/quic-v1 \
         for QUIC"
    ))
}

/// The host as the start of a multiaddr, and the port.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let of_ip = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => format!("/ip4/{ip}"),
        IpAddr::V6(ip) => format!("/ip6/{ip}"),
    };
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some((of_ip(socket.ip()), Some(socket.port())));
    }
    let ip = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = ip.parse() {
        return Some((of_ip(ip), None));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (text, None),
    };
    let is_name = fleet_dns::config::parse_dns_name(name).is_ok();
    is_name.then(|| (format!("/dns/{name}"), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_forms_have_a_suggestion() {
        for (text, expected) in [
            ("relay.example.org:9000", "/dns/relay.example.org/tcp/9000 "),
            (
                "relay.example.org:9000",
                "/dns/relay.example.org/udp/9000/quic-v1 ",
            ),
            ("relay.example.org", "/dns/relay.example.org/tcp/9000 "),
            ("192.0.2.1:1", "/ip4/192.0.2.1/tcp/1 "),
            ("192.0.2.1", "/ip4/192.0.2.1/tcp/9000 "),
            ("[2001:db8::1]:1", "/ip6/2001:db8::1/tcp/1 "),
            ("2001:db8::1", "/ip6/2001:db8::1/tcp/9000 "),
            (
                "wss://relay.example.org",
                "/dns/relay.example.org/tcp/443/tls/ws",
            ),
            ("ws://192.0.2.1:9001/path", "/ip4/192.0.2.1/tcp/9001/ws"),
            ("/ip4/192.0.2.1/tcp/port", "such as /dns/"),
            ("", "such as /dns/"),
            ("not a name", "such as /dns/"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            for word in error
                .split([' ', ','])
                .filter(|word| word.starts_with("/dns/relay."))
            {
                assert!(word.parse::<Multiaddr>().is_ok(), "{word}");
            }
        }
        assert!(parse("/ip4/192.0.2.1/tcp/1").is_ok());
    }
}
