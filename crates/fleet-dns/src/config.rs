//! The settings of the DNS server and of `descord-relay dnsaddr`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use crate::external_address::is_dns_name;

/// Maximum number of relays of a fleet, by name or by address.
pub const MAX_RELAYS: usize = 256;

/// The port of a relay's admin API, unless another one is set.
pub const DEFAULT_ADMIN_PORT: u16 = 8080;

/// The settings of the DNS server and of `descord-relay dnsaddr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// The zone, in lower case and without the trailing dot.
    pub zone: Option<String>,
    /// Sockets on which queries are answered, over UDP and TCP; never empty.
    pub listen: Vec<SocketAddr>,
    /// The relays' admin API endpoints; at most [`MAX_RELAYS`].
    pub relays: Vec<RelayHost>,
    /// How long answers may be cached; from a second to an hour.
    pub ttl: Duration,
    /// The zone's name servers, the first one being the primary. Those inside the zone have
    /// addresses, the others have none.
    pub servers: Vec<NameServer>,
    /// Answers per second over UDP to one client network; `None` is unlimited.
    pub rate: Option<usize>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            zone: None,
            listen: vec![(Ipv4Addr::UNSPECIFIED, 5300).into()],
            relays: Vec::new(),
            ttl: Duration::from_secs(5),
            servers: Vec::new(),
            rate: Some(100),
        }
    }
}

/// The admin API endpoint of one relay, or of all relays that a name resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayHost {
    /// A DNS name or an IP address.
    pub host: String,
    /// The port of the admin API.
    pub port: u16,
}

/// A name server of the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its name, in lower case and without the trailing dot.
    pub name: String,
    /// Its addresses, if its name is inside the zone.
    pub addresses: Vec<IpAddr>,
}

/// Why a text is not a host. `Display` gives words that can follow the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseHostError {
    /// The name is not a DNS name.
    #[error("is not a DNS name")]
    Name,
    /// The port is not a number from 0 to 65535.
    #[error("has no valid port")]
    Port,
    /// An address is not an IP address.
    #[error("has no valid IP address")]
    Address,
}

/// `host`, `host:port`, an IP address or a socket address; the port defaults to 8080.
impl FromStr for RelayHost {
    type Err = ParseHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self {
                host: ip.to_string(),
                port: DEFAULT_ADMIN_PORT,
            });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self {
                host: address.ip().to_string(),
                port: address.port(),
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| ParseHostError::Port)?),
            None => (text, DEFAULT_ADMIN_PORT),
        };
        // A trailing dot keeps the resolver from trying its search list, so it stays.
        parse_dns_name(host)?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for RelayHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(ip) => SocketAddr::new(ip, self.port).fmt(f),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// `name` or `name=address+address`.
impl FromStr for NameServer {
    type Err = ParseHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, addresses) = text.split_once('=').unwrap_or((text, ""));
        let addresses = addresses.split('+').filter(|address| !address.is_empty());
        let addresses: Result<_, _> = addresses.map(str::parse::<IpAddr>).collect();
        Ok(Self {
            name: parse_dns_name(name)?,
            addresses: addresses.map_err(|_| ParseHostError::Address)?,
        })
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (index, address) in self.addresses.iter().enumerate() {
            let separator = if index == 0 { '=' } else { '+' };
            write!(f, "{separator}{address}")?;
        }
        Ok(())
    }
}

/// A DNS name in lower case, without the trailing dot.
///
/// # Errors
/// When the text is not a DNS name.
pub fn parse_dns_name(text: &str) -> Result<String, ParseHostError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if is_dns_name(name) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(ParseHostError::Name)
    }
}
