//! A case: what a client does, and what it observes at each of the two relays.

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use circuit_relay::Limits;
use futures::FutureExt;
use tokio::{task::JoinSet, time::timeout};

use crate::harness::{
    net::Net,
    server::{self, Kind, Server},
};

/// Longer than any case takes.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

type Run = dyn Fn(Server) -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync;

/// See the module's documentation.
pub struct Case {
    /// What the client does, in words.
    pub name: &'static str,
    run: Box<Run>,
    limits: Limits,
    nets: &'static [Net],
    /// What is observed at ours.
    pub ours: &'static str,
    /// How libp2p-relay differs, if it does.
    pub difference: Option<Difference>,
}

/// A difference between the relays, which is deliberate.
pub struct Difference {
    /// What is observed at libp2p-relay.
    pub libp2p: &'static str,
    /// Why ours does what it does.
    pub why: &'static str,
}

impl Case {
    /// A case on all networks, at relays with the usual limits, where both relays let the client
    /// observe `seen`. The case leaves no client behind.
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

    /// libp2p-relay lets the client observe something else; `why` says what ours guarantees.
    pub fn differs(mut self, libp2p: &'static str, why: &'static str) -> Self {
        self.difference = Some(Difference { libp2p, why });
        self
    }

    /// At relays with other limits.
    pub fn limits(mut self, change: fn(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// On these networks only.
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

    /// What is wrong when the case runs at this relay.
    async fn fault(&self, kind: Kind, net: Net) -> Option<String> {
        let run = async {
            let server = Server::start(kind, net, self.limits.clone()).await;
            let seen = (self.run)(server.clone()).await;
            (seen, server.is_clean().await)
        };
        let run = AssertUnwindSafe(run).catch_unwind();
        let fault = match timeout(CASE_TIMEOUT, run).await {
            Err(_) => "it does not end".to_owned(),
            // The panic has said what it is about.
            Ok(Err(_)) => "it panics".to_owned(),
            Ok(Ok((_, Err(left)))) => left,
            Ok(Ok((seen, Ok(())))) if seen == self.seen(kind) => return None,
            Ok(Ok((seen, Ok(())))) => format!("expected: {}, observed: {seen}", self.seen(kind)),
        };
        Some(format!("{} [{kind:?}, {net:?}] {fault}", self.name))
    }
}

/// Runs all cases of a network at both relays, all at once, and panics with what is wrong.
pub async fn run_all(cases: Vec<Case>, net: Net) {
    let mut running = JoinSet::new();
    for case in cases.into_iter().filter(|case| case.nets.contains(&net)) {
        let case = Arc::new(case);
        for kind in [Kind::Ours, Kind::Libp2p] {
            let case = case.clone();
            running.spawn(async move { case.fault(kind, net).await });
        }
    }
    assert!(!running.is_empty());
    let faults: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
