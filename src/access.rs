//! Access control: who may reserve, and who may connect to whom.
//!
//! ```text
//! request ──► rules ──denied──► PERMISSION_DENIED, with the rule in the log
//!               │
//!               └─► endpoint, if configured: cache ──► POST ──► decision
//!                       no decision in time: fail-closed or fail-open
//! ```
//!
//! [`Rules`] come from the environment and from a file that is reloaded when it changes; the
//! access endpoint is operated by the operator. Both are queried within the task of the request (see
//! [`circuit_relay::Access`]), so no request waits for decisions about others. `docs/access.md` is
//! the guide for operators.

mod authorization;
mod config;
mod control;
mod endpoint;
mod file;
mod keyed_semaphore;
mod observer;
mod parse;
mod resolve;
mod rules;
mod single_flight;
mod subject;

pub use self::{
    authorization::{MAX_CACHED, MAX_CONCURRENCY},
    config::{AccessConfig, AccessLists, EndpointConfig, OnError},
    control::{Access, Error, Setup},
    file::{Error as FileError, MAX_FILE_BYTES},
    observer::{AuthorizationOutcome, CacheLookup, Observer},
    parse::{MAX_RULES, Problems, parse_rules},
    rules::{Decision, Effect, Explanation, Origin, Rule, Rules, Scope, Verdict},
    subject::Subject,
};
