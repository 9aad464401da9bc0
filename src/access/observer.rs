//! What access control reports, for example to count it.

use std::{fmt::Debug, time::Duration};

use named_enum::named_enum;

named_enum! {
    /// Outcome of a query to the access endpoint.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AuthorizationOutcome {
        /// The endpoint allowed the request.
        Allowed = "allowed",
        /// The endpoint denied the request.
        Denied = "denied",
        /// The endpoint did not respond in time.
        Timeout = "timeout",
        /// The endpoint could not be reached.
        Unreachable = "unreachable",
        /// The response contained no decision.
        Invalid = "invalid",
        /// Too many queries were pending.
        Overloaded = "overloaded",
    }
}

named_enum! {
    /// Outcome of a lookup in the cache of decisions.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum CacheLookup {
        /// The decision was cached.
        Hit = "hit",
        /// The decision was not cached.
        Miss = "miss",
        /// An identical query was pending.
        Coalesced = "coalesced",
    }
}

/// Receives reports of access control. The methods must not block.
pub trait Observer: Debug + Send + Sync + 'static {
    /// The access endpoint was queried, and answered or failed after `took`.
    fn decision(&self, outcome: AuthorizationOutcome, took: Duration);

    /// A decision was looked up in the cache.
    fn lookup(&self, outcome: CacheLookup);

    /// The number of rules in effect has changed.
    fn rules(&self, number: usize);

    /// The file of rules was reloaded. After a failure, older rules stay in effect.
    fn reloaded(&self, success: bool);
}
