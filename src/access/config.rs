//! The settings of access control.

use std::{path::PathBuf, time::Duration};

use named_enum::choice;
use named_enum::named_enum;
use reqwest::Url;

use super::Subject;
use crate::secret::Secret;

/// Access control for reservations and circuits. By default, all peers have access.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// Peers and networks that may reserve.
    pub reserve: AccessLists,
    /// Peers and networks that may open circuits.
    pub connect: AccessLists,
    /// Peers that circuits may lead to; no entry is a network.
    pub target: AccessLists,
    /// A file with more rules, which is read again when it changes.
    pub file: Option<PathBuf>,
    /// The endpoint that decides on requests that no rule denies.
    pub url: Option<Url>,
    /// How the endpoint is queried.
    pub endpoint: EndpointConfig,
}

/// Entries that are allowed, and entries that are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessLists {
    /// If there are any, all others are denied.
    pub allow: Vec<Subject>,
    /// These take precedence over `allow`.
    pub deny: Vec<Subject>,
}

/// How the access endpoint is queried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Sent as a bearer token.
    pub token: Option<Secret>,
    /// PEM file of the CA certificates that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Deadline of a decision; from 10 ms to 10 s. A request may wait as long again while other
    /// decisions for the same peer are pending.
    pub timeout: Duration,
    /// The policy for requests without a decision.
    pub on_error: OnError,
    /// How long a decision is cached; `None` disables the cache.
    pub cache_ttl: Option<Duration>,
    /// Maximum number of cached decisions; 0 disables the cache.
    pub cache_capacity: usize,
    /// Maximum number of concurrent queries; at least 1.
    pub concurrency: usize,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            token: None,
            ca_file: None,
            timeout: Duration::from_secs(2),
            on_error: OnError::default(),
            cache_ttl: Some(Duration::from_secs(30)),
            cache_capacity: 8192,
            concurrency: 32,
        }
    }
}

named_enum! {
    /// The policy for requests that the access endpoint does not decide on.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub enum OnError {
        /// The request is denied.
        #[default]
        FailClosed = "fail-closed",
        /// The request is granted.
        FailOpen = "fail-open",
    }
}

choice!(OnError);
