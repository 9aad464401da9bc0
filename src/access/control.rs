//! The rules and the endpoint together, as the relay asks them.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use libp2p::PeerId;
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{error, info};

use super::{
    config::{AccessConfig, EndpointConfig},
    decision::Decider,
    endpoint::{Endpoint, Question},
    file::{self, LOOK_INTERVAL, Watched},
    rules::{Effect, Origin, Rule, Rules, Scope, Verdict},
};
use crate::{
    lifecycle::Lifecycle,
    metrics::Metrics,
    relay::{self, Deny, Refusal, Requester},
    resources::Shares,
};

/// Why access cannot be controlled as it is to be. `Display` names the variable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of rules is of no use.
    #[error("RELAY_ACCESS_FILE: {path:?} {cause}")]
    File {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        cause: file::Error,
    },
    /// The endpoint cannot be asked; in words that begin with the variable.
    #[error("{0}")]
    Endpoint(String),
}

/// Everything that access is controlled by, read and checked.
#[derive(Debug)]
pub struct Setup {
    inline: Arc<[Rule]>,
    rules: Rules,
    file: Option<Watched>,
    endpoint: Option<(Endpoint, EndpointConfig)>,
}

impl Setup {
    /// Reads what `config` names; nothing when everybody may do everything. May block.
    ///
    /// # Errors
    /// When the file or the certificates cannot be used.
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
            let (watched, more) = Watched::open(path).map_err(|cause| Error::File {
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

    /// Controls access to `relay` from now on, and follows the file until the process ends.
    /// `shares` are the address prefixes that may ask the endpoint more than others.
    pub fn start(
        self,
        relay: PeerId,
        shares: Shares,
        metrics: &Metrics,
        lifecycle: &Lifecycle,
    ) -> Arc<Access> {
        let number = self.rules.number();
        let decider = self.endpoint.map(|(endpoint, config)| {
            Decider::new(endpoint, &config, relay, shares, metrics.clone())
        });
        info!(
            rules = number,
            endpoint = decider.is_some(),
            "access is controlled"
        );
        metrics.access_rules(number);
        let access = Arc::new(Access {
            rules: RwLock::new(Arc::new(self.rules)),
            inline: self.inline,
            decider,
            metrics: metrics.clone(),
        });
        if let Some(file) = self.file {
            let follow = Arc::clone(&access).follow(file, lifecycle.clone());
            lifecycle.spawn_until_end("access file", follow);
        }
        access
    }
}

/// The rules of the environment.
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
                entry: *entry,
                origin: Origin::Item(number),
            })
        })
        .collect()
}

/// Controls who may reserve, and who may connect to whom.
#[derive(Debug)]
pub struct Access {
    rules: RwLock<Arc<Rules>>,
    inline: Arc<[Rule]>,
    decider: Option<Decider>,
    metrics: Metrics,
}

impl Access {
    /// Those that hold now.
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the rules of the file over whenever they change. What cannot be used changes nothing.
    async fn follow(self: Arc<Self>, mut file: Watched, lifecycle: Lifecycle) {
        loop {
            sleep(LOOK_INTERVAL).await;
            let inline = Arc::clone(&self.inline);
            let look = spawn_blocking(move || {
                let news = file.look();
                let all = |more| inline.iter().copied().chain(more).collect::<Rules>();
                (news.map(|more: Result<Vec<_>, _>| more.map(all)), file)
            });
            // Old rules for ever would be worse than none: nobody would notice.
            let Ok((news, back)) = look.await else {
                error!("the access file cannot be followed any more");
                return lifecycle.fail();
            };
            file = back;
            match news {
                None => {}
                Some(Ok(rules)) => self.take(rules),
                Some(Err(cause)) => self.refuse(&cause),
            }
        }
    }

    fn take(&self, rules: Rules) {
        let number = rules.number();
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.metrics.access_rules(number);
        self.metrics.access_reloaded(true);
        info!(rules = number, "the access rules have changed");
    }

    fn refuse(&self, cause: &file::Error) {
        self.metrics.access_reloaded(false);
        error!(
            %cause,
            "RELAY_ACCESS_FILE has changed and cannot be used: the rules stay as they were"
        );
    }

    async fn decide(&self, question: Question) -> Result<(), Refusal> {
        match &self.decider {
            Some(decider) => decider.decide(question).await,
            None => Ok(()),
        }
    }
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        Deny::AccessRules.by(verdict.to_string())
    }
}

#[async_trait]
impl relay::Access for Access {
    async fn may_reserve(&self, peer: Requester) -> Result<(), Refusal> {
        self.rules().may_reserve(&peer)?;
        self.decide(Question::reserve(peer)).await
    }

    fn may_repeat_reserve(&self, peer: Requester) -> Result<(), Refusal> {
        Ok(self.rules().may_reserve(&peer)?)
    }

    async fn may_connect(&self, source: Requester, target: PeerId) -> Result<(), Refusal> {
        self.rules().may_connect(&source, &target)?;
        self.decide(Question::connect(source, target)).await
    }
}
