//! Formats of the settings of the DNS server: zone, relays, name servers.

use std::net::SocketAddr;
use std::time::Duration;

use fleet_dns::config::{DEFAULT_ADMIN_PORT, MAX_RELAYS, NameServer, RelayHost, parse_dns_name};

use super::list::{join, parse_list};
use super::socket_address;
use super::value_format::{InstanceName, MinDuration, ValueFormat, show_duration};

/// Maximum length of the zone's name, in characters: a TXT string of 255 bytes holds it together with
/// the name of a relay and a peer id.
const MAX_ZONE_LENGTH: usize = 100;

/// Maximum number of name servers, and of listen addresses.
const MAX_SERVERS: usize = 16;

/// Maximum TTL. Longer cached records would not follow the state of the relays.
const MAX_TTL: Duration = Duration::from_secs(3600);

/// The name of the zone, in lower case and without the trailing dot; or none.
pub(super) struct ZoneName;

impl ValueFormat for ZoneName {
    type Value = Option<String>;

    fn allowed(&self) -> String {
        format!("a DNS name of at most {MAX_ZONE_LENGTH} characters, such as `fleet.example.org`")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let name = parse_dns_name(text).map_err(|error| error.to_string())?;
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
            "a comma-separated list of at most {MAX_RELAYS} names, each {}",
            InstanceName.allowed()
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        parse_list(text, MAX_RELAYS, |item| InstanceName.parse(item))
    }

    fn show(&self, value: &Self::Value) -> String {
        value.join(",")
    }
}

/// Listen addresses of the DNS server.
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
        parse_list(text, MAX_SERVERS, socket_address::parse)
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}

/// The relays' admin API endpoints.
pub(super) struct RelayHosts;

impl ValueFormat for RelayHosts {
    type Value = Vec<RelayHost>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_RELAYS} names or IP addresses, each with a \
             port or {DEFAULT_ADMIN_PORT}, such as `relays.internal`, `relay-0:8080` or `[2001:db8::1]:8080`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        parse_list(text, MAX_RELAYS, |item| {
            item.parse::<RelayHost>().map_err(|error| error.to_string())
        })
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
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
            item.parse::<NameServer>()
                .map_err(|error| error.to_string())
        })
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}

/// TTL of the records.
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
