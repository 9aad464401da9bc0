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

mod config;
mod control;
mod decision;
mod endpoint;
mod entry;
mod file;
mod keyed_semaphore;
mod resolve;
mod rules;
mod single_flight;
mod text;

pub use self::{
    config::{AccessConfig, AccessLists, EndpointConfig, OnError},
    control::{Access, Error, Setup},
    decision::{MAX_CONCURRENCY, MAX_REMEMBERED},
    entry::Entry,
    file::{Error as FileError, MAX_FILE_BYTES},
    rules::{Effect, Origin, Rule, Rules, Scope, Verdict},
    text::{MAX_RULES, Problems, parse},
};
