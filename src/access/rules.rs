//! The operator's access rules.
//!
//! Deny rules take precedence over allow rules. If a scope has an allow list, everything else is
//! denied. The cost of a lookup does not depend on the number of rules.

mod explain;

use std::{collections::HashMap, fmt, net::IpAddr};

use circuit_relay::Requester;
use ipnet::IpNet;
use libp2p::PeerId;
use prefix_trie::joint::JointPrefixMap;

pub use self::explain::{Decision, Explanation};
use super::subject::Subject;

/// What a rule applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Reservations.
    Reserve,
    /// Circuits, by their source.
    Connect,
    /// Circuits, by their target.
    Target,
}

impl Scope {
    /// All variants.
    pub const ALL: [Self; 3] = [Self::Reserve, Self::Connect, Self::Target];

    /// Name in rule files and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Connect => "connect",
            Self::Target => "target",
        }
    }

    /// Writes where a rule of this scope is defined.
    fn write_rule(self, f: &mut fmt::Formatter<'_>, effect: Effect, origin: Origin) -> fmt::Result {
        let effect = match effect {
            Effect::Allow => "ALLOW",
            Effect::Deny => "DENY",
        };
        match origin {
            Origin::Item(item) => {
                write!(f, "RELAY_ACCESS_{}_{effect}, item {item}", self.upper())
            }
            Origin::Line(line) => write!(f, "RELAY_ACCESS_FILE, line {line}"),
        }
    }

    /// Name in environment variables.
    fn upper(self) -> &'static str {
        match self {
            Self::Reserve => "RESERVE",
            Self::Connect => "CONNECT",
            Self::Target => "TARGET",
        }
    }
}

/// Whether a rule allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Allows the subject; subjects on no allow list of the scope are denied.
    Allow,
    /// Denies the subject.
    Deny,
}

/// Where a rule is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Item number, from 1, of the variable for its scope and effect.
    Item(u32),
    /// Line number, from 1, of the file.
    Line(u32),
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it applies to.
    pub scope: Scope,
    /// Whether it allows or denies.
    pub effect: Effect,
    /// The peer or network. Networks do not apply to targets.
    pub subject: Subject,
    /// Where it is defined.
    pub origin: Origin,
}

/// Why a request is denied. `Display` names the rule for the operator, without the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An entry of a deny list.
    Denied(Scope, Origin),
    /// There is an allow list without a matching entry.
    NotAllowed(Scope),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(scope, origin) => scope.write_rule(f, Effect::Deny, *origin),
            Self::NotAllowed(scope) => write!(f, "not among allow {}", scope.as_str()),
        }
    }
}

/// The rules in effect.
#[derive(Debug, Default)]
pub struct Rules {
    reserve: Lists,
    connect: Lists,
    target: Lists,
    number: usize,
}

#[derive(Debug, Default)]
struct Lists {
    /// `None` if there is no allow list: everything that is not denied is allowed.
    allow: Option<List>,
    deny: List,
}

#[derive(Debug, Default)]
struct List {
    peers: HashMap<PeerId, Origin>,
    networks: JointPrefixMap<IpNet, Origin>,
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(all: I) -> Self {
        let mut rules = Self::default();
        for rule in all {
            rules.number += 1;
            let lists = match rule.scope {
                Scope::Reserve => &mut rules.reserve,
                Scope::Connect => &mut rules.connect,
                Scope::Target => &mut rules.target,
            };
            let list = match rule.effect {
                Effect::Allow => lists.allow.get_or_insert_default(),
                Effect::Deny => &mut lists.deny,
            };
            match rule.subject {
                Subject::Peer(peer) => {
                    list.peers.entry(peer).or_insert(rule.origin);
                }
                Subject::Network(network) => {
                    list.networks.entry(network).or_insert(rule.origin);
                }
                Subject::None => {}
            }
        }
        rules
    }
}

impl Rules {
    /// Number of rules.
    pub fn rule_count(&self) -> usize {
        self.number
    }

    /// Whether any rule is about a network.
    pub fn has_networks(&self) -> bool {
        let lists = [&self.reserve, &self.connect, &self.target];
        lists.into_iter().any(|lists| {
            let lists = lists.allow.iter().chain([&lists.deny]);
            lists.into_iter().any(|list| !list.networks.is_empty())
        })
    }

    /// Whether `peer` may reserve.
    ///
    /// # Errors
    /// The rule that denies it.
    pub fn may_reserve(&self, peer: &Requester) -> Result<(), Verdict> {
        self.reserve.check(Scope::Reserve, &peer.peer, peer.ip)
    }

    /// Whether `source` may open a circuit to `target`.
    ///
    /// # Errors
    /// The rule that denies it.
    pub fn may_connect(&self, source: &Requester, target: &PeerId) -> Result<(), Verdict> {
        self.connect
            .check(Scope::Connect, &source.peer, source.ip)?;
        self.target.check(Scope::Target, target, None)
    }
}

impl Lists {
    fn check(&self, scope: Scope, peer: &PeerId, ip: Option<IpAddr>) -> Result<(), Verdict> {
        if let Some(origin) = self.deny.find(peer, ip) {
            return Err(Verdict::Denied(scope, origin));
        }
        match &self.allow {
            Some(allow) if allow.find(peer, ip).is_none() => Err(Verdict::NotAllowed(scope)),
            _ => Ok(()),
        }
    }
}

impl List {
    /// Origin of the entry for the peer, or else of the most specific network of its address.
    fn find(&self, peer: &PeerId, ip: Option<IpAddr>) -> Option<Origin> {
        let of_network = || {
            let ip = IpNet::from(ip?.to_canonical());
            self.networks.get_lpm(&ip).map(|(_, origin)| *origin)
        };
        self.peers.get(peer).copied().or_else(of_network)
    }
}

#[cfg(test)]
mod tests;
