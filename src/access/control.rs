//! Access control: rules and access endpoint combined.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use circuit_relay::{Denied, DenyReason, Requester};
use libp2p::PeerId;
use lifecycle::Lifecycle;
use resource_manager::Shares;
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{error, info};

use super::{
    authorization::AuthorizationClient,
    config::{AccessConfig, EndpointConfig},
    endpoint::{Endpoint, Query},
    file::{self, POLL_INTERVAL, WatchedFile},
    observer::Observer,
    rules::{Effect, Origin, Rule, Rules, Scope, Verdict},
};

/// Why access control cannot be set up. `Display` names the variable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rule file cannot be used.
    #[error("RELAY_ACCESS_FILE: {path:?} {cause}")]
    File {
        /// The configured path.
        path: PathBuf,
        /// Why it cannot be used.
        cause: file::Error,
    },
    /// The endpoint cannot be set up. The text begins with the variable.
    #[error("{0}")]
    Endpoint(String),
}

/// Access control that has been loaded and validated, but not started.
#[derive(Debug)]
pub struct Setup {
    inline: Arc<[Rule]>,
    rules: Rules,
    file: Option<WatchedFile>,
    endpoint: Option<(Endpoint, EndpointConfig)>,
}

impl Setup {
    /// Loads the rules and the endpoint of `config`; `None` if access is not restricted. May block.
    ///
    /// # Errors
    /// If the rule file or the certificates cannot be used.
    pub fn load(config: &AccessConfig) -> Result<Option<Self>, Error> {
        let inline = inline(config);
        if inline.is_empty() && config.file.is_none() && config.url.is_none() {
            return Ok(None);
        }
        let endpoint = config.url.as_ref().map(|url| {
            let endpoint = Endpoint::new(url, &config.endpoint).map_err(Error::Endpoint)?;
            Ok((endpoint, config.endpoint.clone()))
        });
        let endpoint = endpoint.transpose()?;
        let mut rules = inline.clone();
        let file = config.file.as_ref().map(|path| {
            let (watched, more) = WatchedFile::open(path).map_err(|cause| Error::File {
                path: path.clone(),
                cause,
            })?;
            rules.extend(more);
            Ok(watched)
        });
        let file = file.transpose()?;
        Ok(Some(Self {
            inline: inline.into(),
            rules: rules.into_iter().collect(),
            file,
            endpoint,
        }))
    }

    /// The rules in effect.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether an endpoint decides on the requests that no rule denies.
    pub fn has_endpoint(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Starts access control for `relay`, and reloads the rule file until the process ends.
    /// `shares` are address prefixes that may send more queries to the endpoint.
    pub fn start(
        self,
        relay: PeerId,
        shares: Shares,
        observer: &Arc<dyn Observer>,
        lifecycle: &Lifecycle,
    ) -> Arc<Access> {
        let number = self.rules.rule_count();
        let authorization = self.endpoint.map(|(endpoint, config)| {
            AuthorizationClient::new(endpoint, &config, relay, shares, Arc::clone(observer))
        });
        info!(
            rules = number,
            endpoint = authorization.is_some(),
            "access control enabled"
        );
        observer.rules(number);
        let access = Arc::new(Access {
            rules: RwLock::new(Arc::new(self.rules)),
            inline: self.inline,
            authorization,
            observer: Arc::clone(observer),
        });
        if let Some(file) = self.file {
            let follow = Arc::clone(&access).follow(file, lifecycle.clone());
            lifecycle.spawn_cancellable("access file", follow);
        }
        access
    }
}

/// The rules in environment variables.
fn inline(config: &AccessConfig) -> Vec<Rule> {
    let lists = [
        (Scope::Reserve, &config.reserve),
        (Scope::Connect, &config.connect),
        (Scope::Target, &config.target),
    ];
    let lists = lists.into_iter().flat_map(|(scope, lists)| {
        [
            (scope, Effect::Allow, &lists.allow),
            (scope, Effect::Deny, &lists.deny),
        ]
    });
    lists
        .flat_map(|(scope, effect, entries)| {
            (1..).zip(entries).map(move |(number, entry)| Rule {
                scope,
                effect,
                subject: *entry,
                origin: Origin::Item(number),
            })
        })
        .collect()
}

/// Decides on reservations and circuits.
#[derive(Debug)]
pub struct Access {
    rules: RwLock<Arc<Rules>>,
    inline: Arc<[Rule]>,
    authorization: Option<AuthorizationClient>,
    observer: Arc<dyn Observer>,
}

impl Access {
    /// The current rules.
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reloads the rules whenever the file changes. A file that cannot be used changes nothing.
    async fn follow(self: Arc<Self>, mut file: WatchedFile, lifecycle: Lifecycle) {
        loop {
            sleep(POLL_INTERVAL).await;
            let inline = Arc::clone(&self.inline);
            let poll = spawn_blocking(move || {
                let update = file.poll();
                let all = |more| inline.iter().copied().chain(more).collect::<Rules>();
                (update.map(|more: Result<Vec<_>, _>| more.map(all)), file)
            });
            // Outdated rules would go unnoticed, so this ends the relay.
            let Ok((update, back)) = poll.await else {
                error!("the access file can no longer be watched");
                return lifecycle.fail();
            };
            file = back;
            match update {
                None => {}
                Some(Ok(rules)) => self.replace_rules(rules),
                Some(Err(cause)) => self.keep_rules(&cause),
            }
        }
    }

    fn replace_rules(&self, rules: Rules) {
        let number = rules.rule_count();
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.observer.rules(number);
        self.observer.reloaded(true);
        info!(rules = number, "access rules reloaded");
    }

    fn keep_rules(&self, cause: &file::Error) {
        self.observer.reloaded(false);
        error!(
            %cause,
            "RELAY_ACCESS_FILE has changed and cannot be used: keeping the previous rules"
        );
    }

    async fn decide(&self, question: Query) -> Result<(), Denied> {
        match &self.authorization {
            Some(authorization) => authorization.decide(question).await,
            None => Ok(()),
        }
    }
}

impl From<Verdict> for Denied {
    fn from(verdict: Verdict) -> Self {
        DenyReason::AccessRules.with_rule(verdict.to_string())
    }
}

#[async_trait]
impl circuit_relay::Access for Access {
    async fn may_reserve(&self, peer: Requester) -> Result<(), Denied> {
        self.rules().may_reserve(&peer)?;
        self.decide(Query::reserve(peer)).await
    }

    fn may_repeat_reserve(&self, peer: Requester) -> Result<(), Denied> {
        Ok(self.rules().may_reserve(&peer)?)
    }

    async fn may_connect(&self, source: Requester, target: PeerId) -> Result<(), Denied> {
        self.rules().may_connect(&source, &target)?;
        self.decide(Query::connect(source, target)).await
    }
}
