//! Access control: who may reserve, and who may connect to whom.
//!
//! ```text
//! request ──► rules ──refuse──► PERMISSION_DENIED, with the rule in the log
//!               │
//!               └─► endpoint, if there is one: memory ──► POST ──► its word
//!                       no word in time: fail-closed or fail-open
//! ```
//!
//! [`Rules`] come from the environment and from a file that may change meanwhile; the endpoint is
//! the operator's own. Both are asked within the task of the request (see
//! [`relay::Access`](crate::relay::Access)), so nobody waits for a decision about somebody else.
//! `docs/access.md` is for operators.

mod authorization;
mod control;
mod endpoint;
mod file;
mod keyed_semaphore;
mod parse;
mod resolve;
mod rules;
mod single_flight;
mod subject;

pub use self::{
    authorization::{MAX_CACHED, MAX_CONCURRENCY},
    control::{Access, Error, Setup},
    file::{Error as FileError, MAX_FILE_BYTES},
    parse::{MAX_RULES, Problems, parse_rules},
    rules::{Effect, Origin, Rule, Rules, Scope, Verdict},
    subject::Subject,
};
