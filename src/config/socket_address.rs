//! Socket addresses, and what a text lacks to be one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fleet_dns::config::parse_dns_name;

/// Parses an IP address with a port.
///
/// # Errors
/// The problem, and what to write instead if that can be told; in words that can follow the text.
pub(super) fn parse(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| problem(text))
}

fn problem(text: &str) -> String {
    const DEFAULT_PORT: u16 = 8080;
    if let Ok(ip) = text.parse::<IpAddr>() {
        let example = SocketAddr::new(ip, DEFAULT_PORT);
        return format!("has no port; write one behind it, as in `{example}`");
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let Ok(port) = port.parse::<u16>() else {
        return "is not an IP address and a port".to_owned();
    };
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let this_machine = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    match host {
        "" => format!(
            "has no IP address; write `{any}` for all interfaces, or `{this_machine}` for this \
             machine only"
        ),
        "localhost" => format!("has a name instead of an IP address; write `{this_machine}`"),
        "*" => format!("has no IP address; write `{any}` for all interfaces"),
        // The brackets of an IPv6 address are missing.
        _ if host.parse::<IpAddr>().is_ok() => {
            format!("has no brackets around the IPv6 address; write `[{host}]:{port}`")
        }
        _ if is_host_name(host) => {
            "has a name instead of an IP address; write the IP address of an interface".to_owned()
        }
        _ => "is not an IP address and a port".to_owned(),
    }
}

/// Whether the text is a DNS name, and not a mistyped IP address.
fn is_host_name(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    parse_dns_name(text).is_ok() && last.starts_with(|c: char| c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_name_the_missing_part() {
        for (text, expected) in [
            (":8080", "write `0.0.0.0:8080` for all interfaces"),
            ("8080", "write `0.0.0.0:8080` for all interfaces"),
            ("*:9", "write `0.0.0.0:9` for all interfaces"),
            ("localhost:8080", "write `127.0.0.1:8080`"),
            ("relay.example:8080", "has a name instead of an IP address"),
            ("192.0.2.1", "as in `192.0.2.1:8080`"),
            ("::", "as in `[::]:8080`"),
            ("", "is not an IP address and a port"),
            ("192.0.2.1:http", "is not an IP address and a port"),
            ("192.0.2.300:80", "is not an IP address and a port"),
            ("http://relay:80", "is not an IP address and a port"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        assert_eq!(parse("[::1]:80").unwrap().port(), 80);
    }
}
