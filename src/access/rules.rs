//! The operator's rules, and what they say of a request.
//!
//! What is denied is refused, whatever is allowed. Where anybody is allowed, all others are
//! refused. A lookup costs the same however many rules there are.

use std::{collections::HashMap, fmt, net::IpAddr};

use ipnet::IpNet;
use libp2p::PeerId;
use prefix_trie::joint::JointPrefixMap;

use super::subject::Subject;
use crate::relay::Requester;

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Who may reserve.
    Reserve,
    /// Who may open circuits.
    Connect,
    /// To whom circuits may be opened.
    Target,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Reserve, Self::Connect, Self::Target];

    /// The word for it in files and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Connect => "connect",
            Self::Target => "target",
        }
    }

    /// The name of it in variables.
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
    /// The entry may; whoever is on no list of this kind may not.
    Allow,
    /// The entry may not.
    Deny,
}

/// Where a rule is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The item of that number, from 1, of the variable for its scope and effect.
    Item(u32),
    /// The line of that number, from 1, of the file.
    Line(u32),
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is about.
    pub scope: Scope,
    /// What it says.
    pub effect: Effect,
    /// Whom it is about. A network says nothing of targets.
    pub subject: Subject,
    /// Where it is written.
    pub origin: Origin,
}

/// The rule that refuses a request; `Display` says where the operator finds it, and nothing of the
/// peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An entry of a deny list.
    Denied(Scope, Origin),
    /// There is an allow list, and nothing of it fits.
    NotAllowed(Scope),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(scope, Origin::Item(item)) => {
                write!(f, "RELAY_ACCESS_{}_DENY, item {item}", scope.upper())
            }
            Self::Denied(_, Origin::Line(line)) => write!(f, "RELAY_ACCESS_FILE, line {line}"),
            Self::NotAllowed(scope) => write!(f, "not among allow {}", scope.as_str()),
        }
    }
}

/// All rules that hold at one time.
#[derive(Debug, Default)]
pub struct Rules {
    reserve: Lists,
    connect: Lists,
    target: Lists,
    number: usize,
}

#[derive(Debug, Default)]
struct Lists {
    /// Nothing when there is no such list: everybody who is not denied is allowed.
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
    /// How many there are.
    pub fn rule_count(&self) -> usize {
        self.number
    }

    /// Whether `peer` may reserve.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn may_reserve(&self, peer: &Requester) -> Result<(), Verdict> {
        self.reserve.check(Scope::Reserve, &peer.peer, peer.ip)
    }

    /// Whether `source` may open a circuit to `target`.
    ///
    /// # Errors
    /// The rule that refuses it.
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
    /// Where the entry is written that fits the peer or else, most closely, its address.
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
