//! Discovery: resolves the relays' host names periodically.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use hickory_resolver::{TokioResolver, net::NetError};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::config::{MAX_RELAYS, RelayHost};

/// Interval between two lookups of a name.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);
/// Deadline of a lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The addresses of the relays' admin APIs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredAddresses {
    /// Without duplicates; at most [`MAX_RELAYS`].
    pub addresses: Vec<SocketAddr>,
    /// Whether every name has been resolved.
    pub is_complete: bool,
}

/// Resolves the relays' host names periodically.
#[derive(Debug)]
pub struct RelayDiscovery {
    hosts: Vec<RelayHost>,
    /// `None` if no host is a name.
    resolver: Option<TokioResolver>,
    /// The addresses of the last successful lookup of each host, by its index.
    resolved: BTreeMap<usize, BTreeSet<IpAddr>>,
    /// Hosts whose last lookup failed.
    failed: BTreeSet<usize>,
}

impl RelayDiscovery {
    /// Resolves `hosts` with the system's resolver. Without a name among them no resolver is needed.
    ///
    /// # Errors
    /// When the system's resolver configuration cannot be read.
    pub fn new(hosts: Vec<RelayHost>) -> Result<Self, ResolverError> {
        let has_names = hosts
            .iter()
            .any(|host| host.host.parse::<IpAddr>().is_err());
        Ok(Self {
            hosts,
            resolver: has_names.then(resolver).transpose()?,
            resolved: BTreeMap::new(),
            failed: BTreeSet::new(),
        })
    }

    /// Sends the addresses of all hosts whenever they change. Never returns.
    pub async fn run(mut self, addresses: watch::Sender<DiscoveredAddresses>) {
        loop {
            self.resolve().await;
            let now = self.addresses();
            addresses.send_if_modified(|last| {
                let is_new = *last != now;
                *last = now;
                is_new
            });
            sleep(LOOKUP_INTERVAL).await;
        }
    }

    /// A name whose lookup fails keeps its last addresses: the status poll finds out whether the
    /// relays are up.
    async fn resolve(&mut self) {
        let lookups = self
            .hosts
            .iter()
            .map(|host| resolve(self.resolver.as_ref(), host));
        let found = join_all(lookups).await;
        for (index, (found, RelayHost { host, .. })) in
            found.into_iter().zip(&self.hosts).enumerate()
        {
            match found {
                Ok(ips) => {
                    self.resolved.insert(index, ips);
                    if self.failed.remove(&index) {
                        info!(host, "lookup succeeded again");
                    }
                }
                Err(error) => {
                    if self.failed.insert(index) {
                        warn!(host, %error, "lookup failed, keeping the last addresses");
                    }
                }
            }
        }
    }

    fn addresses(&self) -> DiscoveredAddresses {
        let hosts = self.resolved.iter().filter_map(|(index, ips)| {
            let port = self.hosts.get(*index)?.port;
            Some(ips.iter().map(move |ip| SocketAddr::new(*ip, port)))
        });
        let addresses: BTreeSet<_> = hosts.flatten().collect();
        DiscoveredAddresses {
            addresses: addresses.into_iter().take(MAX_RELAYS).collect(),
            is_complete: self.resolved.len() == self.hosts.len(),
        }
    }
}

/// The system's resolver cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("names cannot be resolved: /etc/resolv.conf cannot be used: {0}")]
pub struct ResolverError(#[from] NetError);

/// The system's resolver, without a cache.
fn resolver() -> Result<TokioResolver, ResolverError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    // Some systems set a TTL of ten minutes for names that change within seconds.
    options.cache_size = 0;
    options.timeout = LOOKUP_TIMEOUT / 2;
    options.attempts = 1;
    Ok(builder.build()?)
}

/// The addresses of a host; never empty.
async fn resolve(
    resolver: Option<&TokioResolver>,
    RelayHost { host, .. }: &RelayHost,
) -> Result<BTreeSet<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
    if let Ok(ip) = host.parse() {
        return Ok(BTreeSet::from([ip]));
    }
    let resolver = resolver.ok_or("there is no resolver")?;
    let found = timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(host.as_str())).await??;
    let ips: BTreeSet<_> = found.iter().collect();
    if ips.is_empty() {
        return Err("the name has no address".into());
    }
    Ok(ips)
}
