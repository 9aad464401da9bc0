//! What the fleet's directory is told: its zone, its relays, and its name servers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::address::is_dns_name;
use super::list::{join, parse_list};
use super::value_format::{InstanceName, MinDuration, ValueFormat, show_duration};
use super::{NameServer, RelayHost};

/// Maximum number of relays of a fleet, by name or by address.
pub const MAX_FLEET: usize = 256;

/// Maximum number of characters of the zone's name: a TXT string of 255 bytes has to hold it together with
/// the name of a relay and a peer id.
const MAX_ZONE_LENGTH: usize = 100;

/// Maximum number of name servers, and addresses to listen on.
const MAX_SERVERS: usize = 16;

/// The port of a relay's operator endpoints, unless another one is given.
const ADMIN_PORT: u16 = 8080;

/// The longest time to live. What is cached longer does not follow the relays at all.
const MAX_TTL: Duration = Duration::from_secs(3600);

/// The zone that is answered for, in lower case and without the dot at its end; or none.
pub(super) struct ZoneName;

impl ValueFormat for ZoneName {
    type Value = Option<String>;

    fn allowed(&self) -> String {
        format!("a DNS name of at most {MAX_ZONE_LENGTH} characters, such as `fleet.example.org`")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let name = host_name(text)?;
        if name.len() > MAX_ZONE_LENGTH {
            return Err("is too long".to_owned());
        }
        Ok(Some(name))
    }

    fn show(&self, value: &Self::Value) -> String {
        value.clone().unwrap_or_default()
    }
}

/// The instance names of a fleet.
pub(super) struct InstanceNames;

impl ValueFormat for InstanceNames {
    type Value = Vec<String>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_FLEET} names, each {}",
            InstanceName.allowed()
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        parse_list(text, MAX_FLEET, |item| InstanceName.parse(item))
    }

    fn show(&self, value: &Self::Value) -> String {
        value.join(",")
    }
}

/// Where to answer queries.
pub(super) struct SocketAddresses;

impl ValueFormat for SocketAddresses {
    type Value = Vec<SocketAddr>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_SERVERS} IP addresses with ports such as \
             `192.0.2.53:53` or `[2001:db8::53]:53`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let socket = |item: &str| {
            item.parse()
                .map_err(|_| "is not an IP address and a port".to_owned())
        };
        parse_list(text, MAX_SERVERS, socket)
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}

/// Where the relays' operator endpoints are.
pub(super) struct RelayHosts;

impl ValueFormat for RelayHosts {
    type Value = Vec<RelayHost>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_FLEET} names or IP addresses, each with a \
             port or {ADMIN_PORT}, such as `relays.internal`, `relay-0:8080` or `[2001:db8::1]:8080`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        parse_list(text, MAX_FLEET, relay_host)
    }

    fn show(&self, value: &Self::Value) -> String {
        let shown = value.iter().map(|relay| match relay.host.parse() {
            Ok(ip) => SocketAddr::new(ip, relay.port).to_string(),
            Err(_) => format!("{}:{}", relay.host, relay.port),
        });
        join(shown)
    }
}

fn relay_host(item: &str) -> Result<RelayHost, String> {
    if let Ok(ip) = item.parse::<IpAddr>() {
        return Ok(RelayHost {
            host: ip.to_string(),
            port: ADMIN_PORT,
        });
    }
    if let Ok(address) = item.parse::<SocketAddr>() {
        return Ok(RelayHost {
            host: address.ip().to_string(),
            port: address.port(),
        });
    }
    let (host, port) = match item.rsplit_once(':') {
        Some((host, port)) => {
            let port = port.parse().map_err(|_| "has no valid port".to_owned())?;
            (host, port)
        }
        None => (item, ADMIN_PORT),
    };
    // A dot at the end keeps the resolver from trying its search list: it stays.
    host_name(host)?;
    Ok(RelayHost {
        host: host.to_owned(),
        port,
    })
}

/// The zone's name servers.
pub(super) struct NameServers;

impl ValueFormat for NameServers {
    type Value = Vec<NameServer>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_SERVERS} host names, those inside the zone \
             with their IP addresses, such as \
             `dns.example.org` or `ns.fleet.example.org=192.0.2.53+2001:db8::53`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        parse_list(text, MAX_SERVERS, |item| {
            let (name, addresses) = item.split_once('=').unwrap_or((item, ""));
            let addresses = addresses.split('+').filter(|address| !address.is_empty());
            let addresses: Result<_, _> = addresses.map(str::parse::<IpAddr>).collect();
            Ok(NameServer {
                name: host_name(name)?,
                addresses: addresses.map_err(|_| "has no valid IP address".to_owned())?,
            })
        })
    }

    fn show(&self, value: &Self::Value) -> String {
        let shown = value.iter().map(|server| {
            let addresses: Vec<_> = server.addresses.iter().map(IpAddr::to_string).collect();
            if addresses.is_empty() {
                server.name.clone()
            } else {
                format!("{}={}", server.name, addresses.join("+"))
            }
        });
        join(shown)
    }
}

/// How long answers may be cached.
pub(super) struct DnsTtl;

impl DnsTtl {
    const RANGE: MinDuration = MinDuration {
        min: Duration::from_secs(1),
    };
}

impl ValueFormat for DnsTtl {
    type Value = Duration;

    fn allowed(&self) -> String {
        format!(
            "{}, at most {}",
            Self::RANGE.allowed(),
            show_duration(MAX_TTL)
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let ttl = Self::RANGE.parse(text)?;
        if ttl > MAX_TTL {
            return Err("is too long".to_owned());
        }
        Ok(ttl)
    }

    fn show(&self, value: &Self::Value) -> String {
        show_duration(*value)
    }
}

/// A DNS name in lower case, without the dot at its end.
fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if is_dns_name(name) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err("is not a DNS name".to_owned())
    }
}
