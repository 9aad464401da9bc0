//! Decisions of the endpoint: remembered for a while, a few asked for at once, each in time.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use libp2p::PeerId;
use moka::sync::Cache;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    endpoint::{Decision, Endpoint, Failure, Question},
    share::Shares,
};
use crate::{
    config::{AccessEndpoint, OnError},
    metrics::Metrics,
    relay::{Deny, Refusal},
    telemetry::trouble::State,
};

/// The most decisions that may be remembered: 64 MiB then.
pub const MAX_REMEMBERED: usize = 64 * 1024;
/// The most decisions that may be asked for at once.
pub const MAX_CONCURRENCY: usize = 256;
/// One peer gets this part of them, one at least.
const PEER_PART: usize = 8;

/// Decides, or has the endpoint decide.
#[derive(Debug)]
pub(super) struct Decider {
    endpoint: Endpoint,
    relay: PeerId,
    memory: Option<Cache<Question, Decision>>,
    shares: Shares,
    slots: Semaphore,
    timeout: Duration,
    on_error: OnError,
    trouble: Mutex<State>,
    metrics: Metrics,
}

impl Decider {
    /// Has `endpoint` decide for `relay`.
    pub(super) fn new(
        endpoint: Endpoint,
        config: &AccessEndpoint,
        relay: PeerId,
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
            shares: Shares::new((config.concurrency / PEER_PART).max(1)),
            slots: Semaphore::new(config.concurrency),
            timeout: config.timeout,
            on_error: config.on_error,
            trouble: Mutex::default(),
            metrics,
        }
    }

    /// What the endpoint says, or what is to be done when it says nothing in time.
    pub(super) async fn decide(&self, question: Question) -> Result<(), Refusal> {
        if let Some(decision) = self.remembered(&question) {
            self.metrics.access_lookup("hit");
            return verdict(decision);
        }
        // Whoever asks so much that its own questions wait for each other is not let in for that,
        // even when all are who get no decision. So this wait takes nothing of the time to decide.
        let Ok(_place) = timeout(self.timeout, self.shares.take(question.peer())).await else {
            return Err(Deny::AccessBusy.into());
        };
        // The same question may have been answered meanwhile.
        if let Some(decision) = self.remembered(&question) {
            self.metrics.access_lookup("hit");
            return verdict(decision);
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
                verdict(decision)
            }
            Err(failure) => self.failed(failure),
        }
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
        if let Some(failed) = self.trouble().worked() {
            info!(failed, "the access endpoint decides again");
        }
    }

    /// There is no decision.
    fn failed(&self, failure: Failure) -> Result<(), Refusal> {
        let told = self.trouble().failed(Instant::now().into_std());
        let policy = match self.on_error {
            OnError::FailClosed => "fail-closed",
            OnError::FailOpen => "fail-open",
        };
        if let Some(failed) = told {
            let cause = match failure {
                Failure::Unreachable(words) | Failure::Invalid(words) => words,
                Failure::Timeout => "no answer in time".to_owned(),
                Failure::Overloaded => "too many other questions were before it".to_owned(),
            };
            warn!(
                cause,
                failed, policy, "the access endpoint does not decide; see RELAY_ACCESS_ON_ERROR"
            );
        }
        match self.on_error {
            OnError::FailClosed => Err(Deny::AccessUnavailable.by(policy)),
            OnError::FailOpen => Ok(()),
        }
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, State> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
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
