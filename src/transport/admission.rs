//! Admission control before the handshake: whether there is room, how many connections an IP address
//! may open, and which proxies are trusted to send the addresses of their clients.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tracing::info;

use super::pending::{Evicted, PendingHandshakes};
use crate::{
    metrics::Metrics,
    rate::{Limiter, Rate},
    refusals::Refusals,
    resources::{Descriptor, Exhausted, Prefix, Resources},
};

/// What comes through the gater, and from whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// How often a connection may come from one IP address (IPv6: one /64); `None` is unlimited.
    pub rate_per_ip: Option<Rate>,
    /// The load balancers and proxies whose TCP connections begin with a header of the PROXY
    /// protocol. Headers from other addresses are not read.
    pub proxies: Vec<IpNet>,
}

/// Decides on new connections. Clones share everything.
#[derive(Clone, Debug)]
pub struct ConnectionGater(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rates: Option<Rates>,
    proxies: Vec<IpNet>,
    resources: Resources,
    pending: PendingHandshakes,
    metrics: Metrics,
    refusals: Refusals,
}

#[derive(Debug)]
struct Rates {
    /// Connections whose address is the sender's own.
    proven: Limiter<Prefix>,
    /// Connections that only say so. A stranger can send them in anybody's name, so they take
    /// nothing from what that address may have.
    claimed: Limiter<Prefix>,
}

/// An IP address sends connections more often than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the IP address connects too often")]
pub struct RateLimited;

impl RateLimited {
    /// For logs and metrics.
    pub(super) const REASON: &str = "rate_connections_per_ip";
}

impl ConnectionGater {
    /// Lets in what `admission` says, while there is room in `resources`. What it refuses is counted in
    /// `metrics`, and told by `refusals`.
    pub fn new(
        admission: Admission,
        resources: Resources,
        metrics: Metrics,
        refusals: Refusals,
    ) -> Self {
        let rates = admission.rate_per_ip.map(|rate| Rates {
            proven: Limiter::new(rate),
            claimed: Limiter::new(rate),
        });
        Self(Arc::new(Shared {
            rates,
            proxies: admission.proxies,
            pending: PendingHandshakes::new(resources.clone()),
            resources,
            metrics,
            refusals,
        }))
    }

    /// Admits every connection, and reports nothing.
    pub fn open() -> Self {
        Self::new(
            Admission::default(),
            Resources::unlimited(),
            Metrics::noop(),
            Refusals::new(),
        )
    }

    /// What the relay may use, for its newcomers and for those who are in.
    pub(super) fn resources(&self) -> &Resources {
        &self.0.resources
    }

    /// Finds room for one more connection that takes a descriptor.
    ///
    /// # Errors
    /// When there is no memory or no descriptor for it.
    pub(super) fn try_acquire(&self, ip: Option<IpAddr>) -> Result<Descriptor, Exhausted> {
        let ip = ip.filter(|ip| !self.is_proxy(*ip));
        self.0.resources.check_memory(ip)?;
        self.0.resources.descriptor()
    }

    /// Counts one more connection from `ip`, which is the sender's own address: it has answered
    /// from there.
    ///
    /// # Errors
    /// When the address exceeds its rate.
    pub(super) fn check_validated(&self, ip: IpAddr) -> Result<(), RateLimited> {
        self.check(|rates| &rates.proven, ip)
    }

    /// Counts one more connection in the name of `ip`, which may be forged.
    ///
    /// # Errors
    /// When so many have come that the next one has to prove its address first.
    pub(super) fn check_unvalidated(&self, ip: IpAddr) -> Result<(), RateLimited> {
        self.check(|rates| &rates.claimed, ip)
    }

    fn check(&self, of: fn(&Rates) -> &Limiter<Prefix>, ip: IpAddr) -> Result<(), RateLimited> {
        let rates = self.0.rates.as_ref();
        if rates.is_none_or(|rates| of(rates).allows(&Prefix::host(ip))) {
            Ok(())
        } else {
            Err(RateLimited)
        }
    }

    /// Bounds a handshake with a peer at `ip`, if that is proven to be its address: it ends when it
    /// gives way to others.
    pub(super) fn limit_handshake<T, E: From<Evicted>, F: Future<Output = Result<T, E>>>(
        &self,
        ip: Option<IpAddr>,
        handshake: F,
    ) -> impl Future<Output = Result<T, E>> + use<T, E, F> {
        let pending = self.0.pending.begin(ip);
        let gater = self.clone();
        async move {
            pending.run(handshake).await.unwrap_or_else(|evicted| {
                gater.refused(Evicted::REASON);
                Err(evicted.into())
            })
        }
    }

    /// Whether a connection from `ip` begins with a header that tells where it really comes from.
    pub(crate) fn is_proxy(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.proxies.iter().any(|network| network.contains(&ip))
    }

    /// A connection that was let in is closed, as there is no memory for it any more.
    pub(crate) fn shed(&self) {
        self.0.metrics.connection_denied(Exhausted::Memory.reason());
    }

    /// An established connection is closed to make room for another one.
    pub(crate) fn evicted(&self) {
        self.refused("evicted");
    }

    /// A connection was refused, for one of the reasons of the catalogue.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.0.metrics.connection_denied(reason);
        if self.0.refusals.may_tell("connection", reason) {
            info!(reason, "connection refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::rate::Unit;

    fn gater(admission: Admission) -> ConnectionGater {
        ConnectionGater::new(
            admission,
            Resources::unlimited(),
            Metrics::noop(),
            Refusals::new(),
        )
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn forged_source_addresses_use_nothing_of_an_address() {
        let gater = gater(Admission {
            rate_per_ip: Some(Rate {
                burst: NonZeroU32::MIN,
                refill: NonZeroU32::MIN,
                per: Unit::Hour,
            }),
            proxies: Vec::new(),
        });
        assert_eq!(gater.check_unvalidated(ip("192.0.2.1")), Ok(()));
        assert_eq!(gater.check_unvalidated(ip("192.0.2.1")), Err(RateLimited));
        assert_eq!(gater.check_validated(ip("::ffff:192.0.2.1")), Ok(()));
        assert_eq!(gater.check_validated(ip("192.0.2.1")), Err(RateLimited));
        assert_eq!(gater.check_validated(ip("192.0.2.2")), Ok(()));
        assert_eq!(gater.check_validated(ip("2001:db8::1")), Ok(()));
        assert_eq!(gater.check_validated(ip("2001:db8::2")), Err(RateLimited));
    }

    #[test]
    fn an_open_gater_admits_all_and_trusts_no_proxy() {
        let gater = ConnectionGater::open();
        assert!((0..10_000).all(|_| gater.check_validated(ip("192.0.2.1")).is_ok()));
        assert!((0..10_000).all(|_| gater.check_unvalidated(ip("192.0.2.1")).is_ok()));
        assert!(!gater.is_proxy(ip("127.0.0.1")));
    }

    #[test]
    fn proxies_are_those_of_the_networks() {
        let gater = gater(Admission {
            rate_per_ip: None,
            proxies: vec![
                "10.0.0.0/8".parse().unwrap(),
                "2001:db8::/32".parse().unwrap(),
            ],
        });
        for proxy in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8:1::1"] {
            assert!(gater.is_proxy(ip(proxy)), "{proxy}");
        }
        for other in ["11.0.0.1", "::ffff:11.0.0.1", "2001:db9::1", "::10.1.2.3"] {
            assert!(!gater.is_proxy(ip(other)), "{other}");
        }
    }
}
