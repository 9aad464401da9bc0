//! Which rule decides about a peer, for `descord-relay access check`.

use std::{fmt, net::IpAddr};

use libp2p::PeerId;

use super::{Effect, Origin, Rules, Scope, Verdict};

/// How the rules of one scope decide about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The scope.
    pub scope: Scope,
    /// The decision.
    pub decision: Decision,
}

/// A decision, and its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Denied.
    Denied(Verdict),
    /// Allowed by the entry of an allow list.
    Listed(Origin),
    /// Allowed: no rule matches, and there is no allow list.
    Unrestricted,
}

impl Explanation {
    /// Whether the rules allow the request.
    pub fn is_allowed(&self) -> bool {
        !matches!(self.decision, Decision::Denied(_))
    }
}

/// Names the rule.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decision {
            Decision::Denied(Verdict::NotAllowed(scope)) => {
                let scope = scope.as_str();
                write!(f, "there are `allow {scope}` rules, and none matches")
            }
            Decision::Denied(verdict) => verdict.fmt(f),
            Decision::Listed(origin) => self.scope.write_rule(f, Effect::Allow, origin),
            Decision::Unrestricted => f.write_str("no rule matches"),
        }
    }
}

impl Rules {
    /// How the rules of `scope` decide about `peer` with the address `ip`. Without an address, rules
    /// about networks do not match.
    pub fn explain(&self, scope: Scope, peer: &PeerId, ip: Option<IpAddr>) -> Explanation {
        let lists = match scope {
            Scope::Reserve => &self.reserve,
            Scope::Connect => &self.connect,
            Scope::Target => &self.target,
        };
        let decision = if let Err(verdict) = lists.check(scope, peer, ip) {
            Decision::Denied(verdict)
        } else {
            let allow = lists.allow.as_ref();
            let listed = allow.and_then(|allow| allow.find(peer, ip));
            listed.map_or(Decision::Unrestricted, Decision::Listed)
        };
        Explanation { scope, decision }
    }
}
