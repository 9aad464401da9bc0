//! Decisions of the endpoint: remembered for a while, a few asked for at once, each in time.
//!
//! ```text
//! question ──► memory ──► identical question under way? ── yes ──► its answer
//!                                │ no
//!                                └─► peer ──► address prefix ──► their rates ──► slot ──► POST
//! ```
//!
//! A peer, and all peers of an address prefix together, have a part of the slots and a rate, also
//! when nothing is remembered. What exceeds these waits, and is refused as busy after the timeout:
//! peer ids are free, and neither flooding the endpoint nor being granted a request by `fail-open`
//! must be a matter of asking often.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use libp2p::PeerId;
use moka::sync::Cache;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    config::{EndpointConfig, OnError},
    endpoint::{Decision, Endpoint, Failure, Question},
    keyed_semaphore::{KeyedSemaphore, Permit},
    single_flight::SingleFlight,
};
use crate::{
    metrics::Metrics,
    rate::{Limiter, Rate, Unit},
    relay::{Deny, Refusal},
    resources::{Prefix, Share, Shares},
    telemetry::export_health::FailureLog,
};

/// The most decisions that may be remembered: 64 MiB then.
pub const MAX_REMEMBERED: usize = 64 * 1024;
/// The most decisions that may be asked for at once.
pub const MAX_CONCURRENCY: usize = 256;
/// One peer gets this part of them, one at least.
const PEER_PART: usize = 8;
/// The peers of one address prefix (IPv4 /32, IPv6 /64) get this part of them, one at least, or the
/// prefix's share if that is larger.
const PREFIX_PART: usize = 4;
/// How often the endpoint is asked for one peer: a little more than the default rates of requests
/// admit, so this bound shows only where those are raised or do not apply, as to renewals.
const PEER_RATE: Rate = Rate::fixed(128, 4, Unit::Second);
/// The same for all peers of one address prefix. A prefix whose share is all has no such bound.
const PREFIX_RATE: Rate = Rate::fixed(2048, 64, Unit::Second);

/// Decides, or has the endpoint decide.
#[derive(Debug)]
pub(super) struct Decider {
    endpoint: Endpoint,
    relay: PeerId,
    memory: Option<Cache<Question, Decision>>,
    flights: SingleFlight<Question, Outcome>,
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
    metrics: Metrics,
}

/// What came of a question.
#[derive(Clone, Debug)]
enum Outcome {
    Decided(Decision),
    /// The endpoint does not decide.
    Undecided,
    /// The peer or its address prefix has too many questions to ask this one in time.
    Busy,
}

/// Permits that a question holds while it is under way.
type Permits<'a> = (Permit<'a, PeerId>, Option<Permit<'a, Prefix>>);

impl Decider {
    /// Has `endpoint` decide for `relay`.
    pub(super) fn new(
        endpoint: Endpoint,
        config: &EndpointConfig,
        relay: PeerId,
        shares: Shares,
        metrics: Metrics,
    ) -> Self {
        let memory = config.cache_ttl.filter(|_| config.cache_capacity > 0);
        let memory = memory.map(|ttl| {
            Cache::builder()
                .max_capacity(config.cache_capacity as u64)
                .time_to_live(ttl)
                .build()
        });
        Self {
            endpoint,
            relay,
            memory,
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
            metrics,
        }
    }

    /// The decision of the endpoint, or the policy for questions that it does not decide in time.
    pub(super) async fn decide(&self, question: Question) -> Result<(), Refusal> {
        if let Some(decision) = self.remembered(&question) {
            self.metrics.access_lookup("hit");
            return verdict(decision);
        }
        let mut is_first = false;
        let ask = || {
            is_first = true;
            self.resolve(question)
        };
        let outcome = self.flights.answer(question, ask).await;
        if !is_first {
            self.metrics.access_lookup("coalesced");
        }
        match (outcome, self.on_error) {
            (Outcome::Decided(decision), _) => verdict(decision),
            (Outcome::Busy, _) => Err(Deny::AccessBusy.into()),
            (Outcome::Undecided, OnError::FailOpen) => Ok(()),
            (Outcome::Undecided, policy) => Err(Deny::AccessUnavailable.by(policy_name(policy))),
        }
    }

    /// Asks the endpoint once the bounds of the peer and its address prefix admit it.
    async fn resolve(&self, question: Question) -> Outcome {
        // A peer whose own questions delay each other is not granted a request for that, even with
        // `fail-open`. So this wait takes nothing of the time to decide.
        let Ok(_permits) = timeout(self.timeout, self.admit(&question)).await else {
            return Outcome::Busy;
        };
        // The same question may have been answered meanwhile.
        if let Some(decision) = self.remembered(&question) {
            self.metrics.access_lookup("hit");
            return Outcome::Decided(decision);
        }
        if self.memory.is_some() {
            self.metrics.access_lookup("miss");
        }
        let begun = Instant::now();
        let asked = self.ask(question, begun).await;
        self.metrics
            .access_decision(outcome(&asked), begun.elapsed());
        match asked {
            Ok(decision) => {
                self.worked();
                if let Some(memory) = &self.memory {
                    memory.insert(question, decision.clone());
                }
                Outcome::Decided(decision)
            }
            Err(failure) => {
                self.failed(failure);
                Outcome::Undecided
            }
        }
    }

    /// Waits until the peer and its address prefix may have one more question under way, and until
    /// their rates admit it.
    async fn admit(&self, question: &Question) -> Permits<'_> {
        let peer = question.peer();
        let of_peer = (self.concurrency / PEER_PART).max(1);
        let peer_permit = self.peers.acquire(peer, of_peer).await;
        let prefix = question
            .prefix()
            .filter(|prefix| self.shares.of(*prefix) != Share::ALL);
        let mut prefix_permit = None;
        if let Some(prefix) = prefix {
            let share = self.shares.of(prefix).part_of(self.concurrency as u64);
            let share = usize::try_from(share).unwrap_or(usize::MAX);
            let of_prefix = (self.concurrency / PREFIX_PART).max(share);
            prefix_permit = Some(self.prefixes.acquire(prefix, of_prefix).await);
        }
        // The peer comes first: what exceeds its own rate takes nothing from others at its address.
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

    fn remembered(&self, question: &Question) -> Option<Decision> {
        self.memory.as_ref()?.get(question)
    }

    /// Asks, from `begun` on. Half of the time may pass until it is the question's turn: what is
    /// asked too late gets no answer, and takes the time of others.
    async fn ask(&self, question: Question, begun: Instant) -> Result<Decision, Failure> {
        let turn = begun + self.timeout / 2;
        let Ok(slot) = timeout_at(turn, self.slots.acquire()).await else {
            return Err(Failure::Overloaded);
        };
        let deadline = begun + self.timeout;
        let asked = timeout_at(deadline, self.endpoint.ask(self.relay, question)).await;
        drop(slot);
        asked.unwrap_or(Err(Failure::Timeout))
    }

    fn worked(&self) {
        if let Some(failed) = self.failure_log().record_success() {
            info!(failed, "the access endpoint decides again");
        }
    }

    /// Logs that there is no decision, now and then.
    fn failed(&self, failure: Failure) {
        let told = self.failure_log().record_failure(Instant::now().into_std());
        if let Some(failed) = told {
            let cause = match failure {
                Failure::Unreachable(words) | Failure::Invalid(words) => words,
                Failure::Timeout => "no answer in time".to_owned(),
                Failure::Overloaded => "too many other questions were before it".to_owned(),
            };
            warn!(
                cause,
                failed,
                policy = policy_name(self.on_error),
                "the access endpoint does not decide; see RELAY_ACCESS_ON_ERROR"
            );
        }
    }

    fn failure_log(&self) -> std::sync::MutexGuard<'_, FailureLog> {
        self.failure_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn policy_name(policy: OnError) -> &'static str {
    match policy {
        OnError::FailClosed => "fail-closed",
        OnError::FailOpen => "fail-open",
    }
}

fn verdict(decision: Decision) -> Result<(), Refusal> {
    if decision.allow {
        return Ok(());
    }
    Err(Deny::AccessDecision.by(match decision.rule {
        Some(rule) => format!("RELAY_ACCESS_URL, {rule}"),
        None => "RELAY_ACCESS_URL".to_owned(),
    }))
}

/// A short, stable word for metrics.
fn outcome(asked: &Result<Decision, Failure>) -> &'static str {
    match asked {
        Ok(Decision { allow: true, .. }) => "allowed",
        Ok(Decision { allow: false, .. }) => "denied",
        Err(Failure::Unreachable(_)) => "unreachable",
        Err(Failure::Invalid(_)) => "invalid",
        Err(Failure::Timeout) => "timeout",
        Err(Failure::Overloaded) => "overloaded",
    }
}
