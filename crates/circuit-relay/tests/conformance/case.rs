//! A conformance case: the actions of a client, and the expected observation at each of the two relays.

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use circuit_relay::Limits;
use futures::FutureExt;
use tokio::{task::JoinSet, time::timeout};

use crate::harness::{
    net::Net,
    server::{self, Kind, Server},
};

/// Timeout of a case.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

type Run = dyn Fn(Server) -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync;

/// See the module's documentation.
pub struct Case {
    /// Description of the client's actions.
    pub name: &'static str,
    run: Box<Run>,
    limits: Limits,
    nets: &'static [Net],
    /// Expected observation at this crate's relay.
    pub ours: &'static str,
    /// How libp2p-relay differs, if it does.
    pub difference: Option<Difference>,
}

/// A deliberate difference between the relays.
pub struct Difference {
    /// Expected observation at libp2p-relay.
    pub libp2p: &'static str,
    /// Reason for the behaviour of this crate's relay.
    pub why: &'static str,
}

impl Case {
    /// A case on all networks, with default limits, for which both relays produce the observation `seen`.
    /// All clients of the case have to be disconnected at its end.
    pub fn new<F>(name: &'static str, run: fn(Server) -> F, seen: &'static str) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        Self {
            name,
            run: Box::new(move |server| Box::pin(run(server))),
            limits: server::limits(),
            nets: Net::ALL,
            ours: seen,
            difference: None,
        }
    }

    /// libp2p-relay produces another observation; `why` states what this crate's relay guarantees.
    pub fn differs(mut self, libp2p: &'static str, why: &'static str) -> Self {
        self.difference = Some(Difference { libp2p, why });
        self
    }

    /// Changes the default limits.
    pub fn limits(mut self, change: fn(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Restricts the case to these networks.
    pub fn on(mut self, nets: &'static [Net]) -> Self {
        self.nets = nets;
        self
    }

    fn seen(&self, kind: Kind) -> &'static str {
        match (&self.difference, kind) {
            (Some(difference), Kind::Libp2p) => difference.libp2p,
            _ => self.ours,
        }
    }

    /// Runs the case at this relay and returns a description of the failure, if any.
    async fn failure(&self, kind: Kind, net: Net) -> Option<String> {
        let run = async {
            let server = Server::start(kind, net, self.limits.clone()).await;
            let seen = (self.run)(server.clone()).await;
            (seen, server.check_released().await)
        };
        let run = AssertUnwindSafe(run).catch_unwind();
        let failure = match timeout(CASE_TIMEOUT, run).await {
            Err(_) => "it does not end".to_owned(),
            // The panic message has already been printed.
            Ok(Err(_)) => "it panics".to_owned(),
            Ok(Ok((_, Err(left)))) => left,
            Ok(Ok((seen, Ok(())))) if seen == self.seen(kind) => return None,
            Ok(Ok((seen, Ok(())))) => format!("expected: {}, observed: {seen}", self.seen(kind)),
        };
        Some(format!("{} [{kind:?}, {net:?}] {failure}", self.name))
    }
}

/// Runs all cases of a network concurrently at both relays. Panics with a list of the failures.
pub async fn run_all(cases: Vec<Case>, net: Net) {
    let mut running = JoinSet::new();
    for case in cases.into_iter().filter(|case| case.nets.contains(&net)) {
        let case = Arc::new(case);
        for kind in [Kind::Ours, Kind::Libp2p] {
            let case = case.clone();
            running.spawn(async move { case.failure(kind, net).await });
        }
    }
    assert!(!running.is_empty());
    let faults: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
