//! Where the relays are: their names, looked up again and again.

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

/// Between two look-ups of the relays' names.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the relays are, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredAddresses {
    /// Each once; at most [`MAX_RELAYS`].
    pub addresses: Vec<SocketAddr>,
    /// Whether every name stands for something.
    pub is_complete: bool,
}

/// Looks the relays' names up, again and again.
#[derive(Debug)]
pub struct RelayDiscovery {
    hosts: Vec<RelayHost>,
    resolver: TokioResolver,
    /// What each host stood for when it was last known.
    resolved: BTreeMap<usize, BTreeSet<IpAddr>>,
    /// Which hosts could not be looked up the last time.
    failed: BTreeSet<usize>,
}

impl RelayDiscovery {
    /// Looks these up with the system's resolver.
    ///
    /// # Errors
    /// When the system's resolver is not configured.
    pub fn new(hosts: Vec<RelayHost>) -> Result<Self, NetError> {
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        // Some systems say that names may be cached for ten minutes, and change them in seconds.
        options.cache_size = 0;
        options.timeout = LOOKUP_TIMEOUT / 2;
        options.attempts = 1;
        Ok(Self {
            hosts,
            resolver: builder.build()?,
            resolved: BTreeMap::new(),
            failed: BTreeSet::new(),
        })
    }

    /// Sends the addresses of all hosts whenever they change, for ever.
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

    /// A name that cannot be looked up keeps what it stood for: its relays tell themselves whether
    /// they are there.
    async fn resolve(&mut self) {
        let lookups = self.hosts.iter().map(|host| resolve(&self.resolver, host));
        let found = join_all(lookups).await;
        for (index, (found, RelayHost { host, .. })) in
            found.into_iter().zip(&self.hosts).enumerate()
        {
            match found {
                Ok(ips) => {
                    self.resolved.insert(index, ips);
                    if self.failed.remove(&index) {
                        info!(host, "the name is found again");
                    }
                }
                Err(error) => {
                    if self.failed.insert(index) {
                        warn!(host, %error, "cannot look the name up; what it stood for stays");
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

/// What a host stands for; never nothing.
async fn resolve(
    resolver: &TokioResolver,
    RelayHost { host, .. }: &RelayHost,
) -> Result<BTreeSet<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
    if let Ok(ip) = host.parse() {
        return Ok(BTreeSet::from([ip]));
    }
    let found = timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(host.as_str())).await??;
    let ips: BTreeSet<_> = found.iter().collect();
    if ips.is_empty() {
        return Err("it stands for no address".into());
    }
    Ok(ips)
}
