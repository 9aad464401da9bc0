//! Formats of rates, of the memory limit, of prefix shares and of networks.

use ipnet::IpNet;
use rate_limits::{ParseRateError, Rate};
use resource_manager::{MemoryLimit, ParseMemoryLimitError, Share, Shares};

use super::list::{join, parse_list};
use super::value_format::ValueFormat;
use crate::access::Subject;

/// Maximum number of proxy networks, and of prefix shares.
const MAX_PROXIES: usize = 64;

/// A burst and a sustained rate; 0 = unlimited.
pub(super) struct BurstAndRate;

impl ValueFormat for BurstAndRate {
    type Value = Option<Rate>;

    fn allowed(&self) -> String {
        format!(
            "a burst and a sustained rate such as `500+20/s` (a burst of 500, then 20 per second; also `/m` \
             and `/h`), numbers up to {}, 0 = unlimited",
            Rate::MAX
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text == "0" {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|error: ParseRateError| error.to_string())
    }

    fn show(&self, value: &Self::Value) -> String {
        value.map_or_else(|| "0".to_owned(), |rate| rate.to_string())
    }
}

/// The memory limit.
pub(super) struct MemoryLimitFormat;

impl ValueFormat for MemoryLimitFormat {
    type Value = MemoryLimit;

    fn allowed(&self) -> String {
        "`auto`, or a size such as `512MiB` from 16MiB on, 0 = unlimited".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        text.parse()
            .map_err(|error: ParseMemoryLimitError| error.to_string())
    }

    fn show(&self, value: &Self::Value) -> String {
        value.to_string()
    }
}

/// Networks with the share of each address prefix in them.
pub(super) struct PrefixShares;

impl ValueFormat for PrefixShares {
    type Value = Shares;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_PROXIES} networks with a fraction or a percentage \
             each, such as `100.64.0.0/10=1/2,192.0.2.7=100%`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let mut networks = Vec::new();
        let shares = parse_list(text, MAX_PROXIES, |item| {
            let (network, share) = item
                .split_once('=')
                .ok_or_else(|| "has no `=` and a share".to_owned())?;
            let network = parse_network(network.trim())
                .map_err(|problem| format!("begins with a text that {problem}"))?
                .trunc();
            let share: Share = share.trim().parse().map_err(|_| {
                "has a share that is neither a fraction such as `1/8` nor a percentage such as \
                 `12.5%`, more than 0 and at most all"
                    .to_owned()
            })?;
            Ok((network, share))
        })?;
        for (network, _) in &shares {
            if networks.contains(network) {
                return Err(format!("contains {network} twice"));
            }
            networks.push(*network);
        }
        Ok(Shares::new(shares))
    }

    fn show(&self, value: &Self::Value) -> String {
        let show = |(network, share): &(IpNet, Share)| format!("{network}={share}");
        join(value.overrides().iter().map(show))
    }
}

/// A list of networks, or none.
pub(super) struct NetworkList;

impl ValueFormat for NetworkList {
    type Value = Vec<IpNet>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_PROXIES} IP addresses and networks such as \
             `10.0.0.0/8`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        parse_list(text, MAX_PROXIES, parse_network)
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}

/// A network, or an IP address as the network of that address alone.
fn parse_network(text: &str) -> Result<IpNet, String> {
    match text.parse() {
        Ok(Subject::Network(network)) => Ok(network),
        Ok(Subject::Peer(_)) => Err("is a peer id, not a network".to_owned()),
        // The text has the form of an address or a network.
        Err(problem) if text.contains(['.', ':']) => Err(problem),
        Ok(Subject::None) | Err(_) => {
            Err("is not an IP address or a network such as 192.0.2.0/24".to_owned())
        }
    }
}
