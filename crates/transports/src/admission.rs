//! Admission control before the handshake: resource limits, the rate of connections per IP address, and
//! the proxies that are trusted to send the addresses of their clients.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use rate_limits::LogThrottle;
use rate_limits::{Limiter, Rate};
use resource_manager::ConnectionDenyReason;
use resource_manager::{Descriptor, Exhausted, Prefix, Resources};
use tracing::info;

use super::pending::{Evicted, PendingHandshakes};
use crate::observer::{NoObserver, Observer};

/// The configuration of the gater.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The maximum rate of connections per IP address (IPv6: per /64); `None` is unlimited.
    pub rate_per_ip: Option<Rate>,
    /// The networks of load balancers and proxies whose TCP connections begin with a header of the PROXY
    /// protocol. Headers from other addresses are not read.
    pub proxies: Vec<IpNet>,
}

/// Admits or refuses new connections. Clones share their state.
#[derive(Clone, Debug)]
pub struct ConnectionGater(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rates: Option<RateLimiters>,
    proxies: Vec<IpNet>,
    resources: Resources,
    pending: PendingHandshakes,
    observer: Arc<dyn Observer>,
    log_throttle: LogThrottle,
}

#[derive(Debug)]
struct RateLimiters {
    /// Connections whose source address is validated.
    validated: Limiter<Prefix>,
    /// Connections whose source address may be forged. They have a separate limiter, so that an attacker
    /// cannot use up the rate of another address.
    unvalidated: Limiter<Prefix>,
}

/// An IP address exceeds its rate of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the IP address exceeds its rate of connections")]
pub struct RateLimited;

impl RateLimited {
    /// The reason for logs and metrics.
    pub(super) const REASON: &str = ConnectionDenyReason::RatePerIp.as_str();
}

impl ConnectionGater {
    /// A gater with the settings of `admission` and the limits of `resources`. Refused connections are
    /// reported to `observer`, and logged at the rate of `refusals`.
    pub fn new(
        admission: Admission,
        resources: Resources,
        observer: Arc<dyn Observer>,
        log_throttle: LogThrottle,
    ) -> Self {
        let rates = admission.rate_per_ip.map(|rate| RateLimiters {
            validated: Limiter::new(rate),
            unvalidated: Limiter::new(rate),
        });
        Self(Arc::new(Shared {
            rates,
            proxies: admission.proxies,
            pending: PendingHandshakes::new(resources.clone()),
            resources,
            observer,
            log_throttle,
        }))
    }

    /// A gater that admits every connection, without an observer.
    pub fn unlimited() -> Self {
        Self::new(
            Admission::default(),
            Resources::unlimited(),
            NoObserver::shared(),
            LogThrottle::new(),
        )
    }

    /// The resource limits, for new and established connections.
    pub(super) fn resources(&self) -> &Resources {
        &self.0.resources
    }

    /// Acquires a file descriptor for a connection from `ip`. Addresses of proxies are not subject to
    /// shares.
    ///
    /// # Errors
    /// When memory or descriptors are exhausted.
    pub(super) fn try_acquire(&self, ip: Option<IpAddr>) -> Result<Descriptor, Exhausted> {
        let ip = ip.filter(|ip| !self.is_proxy(*ip));
        self.0.resources.check_memory(ip)?;
        self.0.resources.descriptor()
    }

    /// Counts a connection from `ip`, which is validated: the peer has answered from there.
    ///
    /// # Errors
    /// When the address exceeds its rate.
    pub(super) fn check_validated(&self, ip: IpAddr) -> Result<(), RateLimited> {
        self.check(|rates| &rates.validated, ip)
    }

    /// Counts a connection from `ip`, which may be forged.
    ///
    /// # Errors
    /// When the rate is exceeded, so that the address has to be validated first.
    pub(super) fn check_unvalidated(&self, ip: IpAddr) -> Result<(), RateLimited> {
        self.check(|rates| &rates.unvalidated, ip)
    }

    fn check(
        &self,
        of: fn(&RateLimiters) -> &Limiter<Prefix>,
        ip: IpAddr,
    ) -> Result<(), RateLimited> {
        let rates = self.0.rates.as_ref();
        if rates.is_none_or(|rates| of(rates).allows(&Prefix::host(ip))) {
            Ok(())
        } else {
            Err(RateLimited)
        }
    }

    /// Adds `handshake` to the pending handshakes, and runs it until it completes or is evicted. `ip` is
    /// the address of the peer, if it is validated.
    pub(super) fn limit_handshake<T, E: From<Evicted>, F: Future<Output = Result<T, E>>>(
        &self,
        ip: Option<IpAddr>,
        handshake: F,
    ) -> impl Future<Output = Result<T, E>> + use<T, E, F> {
        let pending = self.0.pending.begin(ip);
        let gater = self.clone();
        async move {
            pending.run(handshake).await.unwrap_or_else(|evicted| {
                gater.record_refusal(Evicted::REASON);
                Err(evicted.into())
            })
        }
    }

    /// Whether `ip` is a trusted proxy, whose connections begin with a PROXY header.
    pub fn is_proxy(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.proxies.iter().any(|network| network.contains(&ip))
    }

    /// Counts an established connection that is closed to free memory.
    pub fn record_memory_close(&self) {
        self.0
            .observer
            .connection_denied(Exhausted::Memory.reason());
    }

    /// Counts and logs an established connection that is closed in favour of another one.
    pub fn record_eviction(&self) {
        self.record_refusal(ConnectionDenyReason::Evicted.as_str());
    }

    /// Counts and logs a connection that was refused, for one of the reasons in the metrics catalogue.
    pub fn record_refusal(&self, reason: &'static str) {
        self.0.observer.connection_denied(reason);
        if self.0.log_throttle.should_log("connection", reason) {
            info!(reason, "connection refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use rate_limits::Unit;

    fn gater(admission: Admission) -> ConnectionGater {
        ConnectionGater::new(
            admission,
            Resources::unlimited(),
            NoObserver::shared(),
            LogThrottle::new(),
        )
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn forged_source_addresses_do_not_use_up_a_rate() {
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
    fn unlimited_gater_admits_all_and_trusts_no_proxy() {
        let gater = ConnectionGater::unlimited();
        assert!((0..10_000).all(|_| gater.check_validated(ip("192.0.2.1")).is_ok()));
        assert!((0..10_000).all(|_| gater.check_unvalidated(ip("192.0.2.1")).is_ok()));
        assert!(!gater.is_proxy(ip("127.0.0.1")));
    }

    #[test]
    fn proxies_are_matched_by_network() {
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
