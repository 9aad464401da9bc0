//! Client of the access endpoint: caches decisions, and limits the concurrency, rate and duration of
//! queries.
//!
//! ```text
//! query ──► cache ──► identical query pending? ── yes ──► its response
//!                          │ no
//!                          └─► peer ──► address prefix ──► rates ──► slot ──► POST
//! ```
//!
//! A peer, and all peers of an address prefix together, have a part of the slots and a rate, even
//! if nothing is cached. Queries beyond these are delayed, and denied as busy after the timeout:
//! peer ids are free, so a flood of requests must neither flood the endpoint nor be granted by
//! `fail-open`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use circuit_relay::{Denied, DenyReason};
use libp2p::PeerId;
use moka::sync::Cache;
use rate_limits::{Limiter, Rate, Unit};
use resource_manager::{Prefix, Share, Shares};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    config::{EndpointConfig, OnError},
    endpoint::{Decision, Endpoint, Failure, Query},
    keyed_semaphore::{KeyedSemaphore, Permit},
    observer::{AuthorizationOutcome, CacheLookup, Observer},
    single_flight::SingleFlight,
};
use crate::failure_log::FailureLog;

/// Largest capacity of the cache, in decisions. It takes 64 MiB.
pub const MAX_CACHED: usize = 64 * 1024;
/// Maximum number of concurrent queries.
pub const MAX_CONCURRENCY: usize = 256;
/// Divisor of the concurrent queries that one peer may have, at least 1.
const PEER_DIVISOR: usize = 8;
/// Divisor of the concurrent queries that the peers of one address prefix (IPv4 /32, IPv6 /64) may
/// have: at least 1, or the prefix's share if that is larger.
const PREFIX_DIVISOR: usize = 4;
/// Rate of queries for one peer. It slightly exceeds the default request rates, so it applies only
/// if those are raised, or to requests that are exempt from them, such as renewals.
const PEER_RATE: Rate = Rate::fixed(128, 4, Unit::Second);
/// Rate of queries for all peers of one address prefix. A prefix with a share of 100 % has no such
/// limit.
const PREFIX_RATE: Rate = Rate::fixed(2048, 64, Unit::Second);

/// Decides from the cache, or queries the endpoint.
#[derive(Debug)]
pub(super) struct AuthorizationClient {
    endpoint: Endpoint,
    relay: PeerId,
    cache: Option<Cache<Query, Decision>>,
    flights: SingleFlight<Query, Outcome>,
    peers: KeyedSemaphore<PeerId>,
    prefixes: KeyedSemaphore<Prefix>,
    peer_rate: Limiter<PeerId>,
    prefix_rate: Limiter<Prefix>,
    shares: Shares,
    slots: Semaphore,
    concurrency: usize,
    timeout: Duration,
    on_error: OnError,
    failure_log: Mutex<FailureLog>,
    observer: Arc<dyn Observer>,
}

/// Result of a query.
#[derive(Clone, Debug)]
enum Outcome {
    Decided(Decision),
    /// The endpoint has not decided.
    Undecided,
    /// The peer or its address prefix has too many pending queries.
    Busy,
}

/// Permits of a pending query.
type Permits<'a> = (Permit<'a, PeerId>, Option<Permit<'a, Prefix>>);

impl AuthorizationClient {
    /// Creates a client that queries `endpoint` on behalf of `relay`.
    pub(super) fn new(
        endpoint: Endpoint,
        config: &EndpointConfig,
        relay: PeerId,
        shares: Shares,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let cache = config.cache_ttl.filter(|_| config.cache_capacity > 0);
        let cache = cache.map(|ttl| {
            Cache::builder()
                .max_capacity(config.cache_capacity as u64)
                .time_to_live(ttl)
                .build()
        });
        Self {
            endpoint,
            relay,
            cache,
            flights: SingleFlight::new(),
            peers: KeyedSemaphore::new(),
            prefixes: KeyedSemaphore::new(),
            peer_rate: Limiter::new(PEER_RATE),
            prefix_rate: Limiter::new(PREFIX_RATE),
            shares,
            slots: Semaphore::new(config.concurrency),
            concurrency: config.concurrency,
            timeout: config.timeout,
            on_error: config.on_error,
            failure_log: Mutex::default(),
            observer,
        }
    }

    /// Returns the decision of the endpoint, or applies the policy if there is none in time.
    pub(super) async fn decide(&self, query: Query) -> Result<(), Denied> {
        if let Some(decision) = self.cached(&query) {
            self.observer.lookup(CacheLookup::Hit);
            return verdict(decision);
        }
        let mut is_first = false;
        let ask = || {
            is_first = true;
            self.resolve(query)
        };
        let outcome = self.flights.run(query, ask).await;
        if !is_first {
            self.observer.lookup(CacheLookup::Coalesced);
        }
        match (outcome, self.on_error) {
            (Outcome::Decided(decision), _) => verdict(decision),
            (Outcome::Busy, _) => Err(DenyReason::AccessBusy.into()),
            (Outcome::Undecided, OnError::FailOpen) => Ok(()),
            (Outcome::Undecided, policy) => {
                Err(DenyReason::AccessUnavailable.with_rule(policy.as_str()))
            }
        }
    }

    /// Queries the endpoint when the limits of the peer and its address prefix allow it.
    async fn resolve(&self, query: Query) -> Outcome {
        // A request that is delayed by its peer's own queries must not be granted for that by
        // `fail-open`. This wait therefore does not count for the timeout of the query.
        let Ok(_permits) = timeout(self.timeout, self.admit(&query)).await else {
            return Outcome::Busy;
        };
        // An identical query may have been answered in the meantime.
        if let Some(decision) = self.cached(&query) {
            self.observer.lookup(CacheLookup::Hit);
            return Outcome::Decided(decision);
        }
        if self.cache.is_some() {
            self.observer.lookup(CacheLookup::Miss);
        }
        let begun = Instant::now();
        let response = self.query_endpoint(query, begun).await;
        self.observer.decision(outcome(&response), begun.elapsed());
        match response {
            Ok(decision) => {
                self.worked();
                if let Some(cache) = &self.cache {
                    cache.insert(query, decision.clone());
                }
                Outcome::Decided(decision)
            }
            Err(failure) => {
                self.failed(failure);
                Outcome::Undecided
            }
        }
    }

    /// Waits until the concurrency and rate limits of the peer and its address prefix allow one
    /// more query.
    async fn admit(&self, query: &Query) -> Permits<'_> {
        let peer = query.peer();
        let of_peer = (self.concurrency / PEER_DIVISOR).max(1);
        let peer_permit = self.peers.acquire(peer, of_peer).await;
        let prefix = query
            .prefix()
            .filter(|prefix| self.shares.of(*prefix) != Share::ALL);
        let mut prefix_permit = None;
        if let Some(prefix) = prefix {
            let share = self.shares.of(prefix).part_of(self.concurrency as u64);
            let share = usize::try_from(share).unwrap_or(usize::MAX);
            let of_prefix = (self.concurrency / PREFIX_DIVISOR).max(share);
            prefix_permit = Some(self.prefixes.acquire(prefix, of_prefix).await);
        }
        // The peer is checked first: queries beyond its own rate use nothing of its prefix's rate.
        while let Err(wait) = self.peer_rate.check(&peer) {
            sleep(wait).await;
        }
        if let Some(prefix) = prefix {
            while let Err(wait) = self.prefix_rate.check(&prefix) {
                sleep(wait).await;
            }
        }
        (peer_permit, prefix_permit)
    }

    fn cached(&self, query: &Query) -> Option<Decision> {
        self.cache.as_ref()?.get(query)
    }

    /// Queries the endpoint. Waits for a slot for at most half of the timeout since `begun`: a
    /// query that is sent later would probably time out and delay others.
    async fn query_endpoint(&self, query: Query, begun: Instant) -> Result<Decision, Failure> {
        let turn = begun + self.timeout / 2;
        let Ok(slot) = timeout_at(turn, self.slots.acquire()).await else {
            return Err(Failure::Overloaded);
        };
        let deadline = begun + self.timeout;
        let response = timeout_at(deadline, self.endpoint.query(self.relay, query)).await;
        drop(slot);
        response.unwrap_or(Err(Failure::Timeout))
    }

    fn worked(&self) {
        if let Some(failed) = self.failure_log().record_success() {
            info!(failed, "access endpoint recovered");
        }
    }

    /// Logs the failure, at most once per interval.
    fn failed(&self, failure: Failure) {
        let due = self.failure_log().record_failure(Instant::now().into_std());
        if let Some(failed) = due {
            let cause = match failure {
                Failure::Unreachable(words) | Failure::Invalid(words) => words,
                Failure::Timeout => "no answer in time".to_owned(),
                Failure::Overloaded => "too many other queries were pending".to_owned(),
            };
            warn!(
                cause,
                failed,
                policy = self.on_error.as_str(),
                "access endpoint unavailable: applying RELAY_ACCESS_ON_ERROR"
            );
        }
    }

    fn failure_log(&self) -> std::sync::MutexGuard<'_, FailureLog> {
        self.failure_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn verdict(decision: Decision) -> Result<(), Denied> {
    if decision.allow {
        return Ok(());
    }
    Err(DenyReason::AccessDecision.with_rule(match decision.rule {
        Some(rule) => format!("RELAY_ACCESS_URL, {rule}"),
        None => "RELAY_ACCESS_URL".to_owned(),
    }))
}

fn outcome(response: &Result<Decision, Failure>) -> AuthorizationOutcome {
    match response {
        Ok(Decision { allow: true, .. }) => AuthorizationOutcome::Allowed,
        Ok(Decision { allow: false, .. }) => AuthorizationOutcome::Denied,
        Err(Failure::Unreachable(_)) => AuthorizationOutcome::Unreachable,
        Err(Failure::Invalid(_)) => AuthorizationOutcome::Invalid,
        Err(Failure::Timeout) => AuthorizationOutcome::Timeout,
        Err(Failure::Overloaded) => AuthorizationOutcome::Overloaded,
    }
}
