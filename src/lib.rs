//! A libp2p [Circuit Relay v2] server for fleets.
//!
//! The library of the `descord-relay` binary.
//!
//! | module | contents |
//! |---|---|
//! | [`cli`] | the subcommands |
//! | [`build_info`] | version, source revision and target |
//! | [`config`] | every environment variable: type, unit, default, bounds, documentation |
//! | [`identity`] | the relay's key pair: configured, derived from the fleet's seed, or ephemeral |
//! | [`pseudonym`] | pseudonyms of peers and networks in logs and telemetry |
//! | [`metrics`] | the catalogue of instruments |
//! | [`node`] | the swarm and its event loop: serve, drain, close |
//! | [`relay_observer`] | logs, metrics, spans and counters of the relay's requests and circuits |
//! | [`secret`] | secret text |
//! | [`access`] | access control: rules and the access endpoint |
//! | [`peer_stats`] | traffic counters of the most active peers |
//! | [`identify`] | the identify protocol: the relay's identity and addresses |
//! | [`ping`] | responder of the ping protocol |
//! | [`autonat`] | `AutoNAT` server, versions 1 and 2 |
//! | [`dialback`] | which addresses are dialled for `AutoNAT`, and how often |
//! | [`admin`] | the admin API over HTTP |
//! | [`dns`] | HTTP endpoints and instruments of the DNS directory |
//! | [`telemetry`] | the event log, traces, and metrics export |
//! | `fuzzing` | entry points of fuzzers |
//! | [`probe`] | an end-to-end test client |
//!
//! [Circuit Relay v2]: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md

#![cfg_attr(
    not(test),
    warn(clippy::print_stdout, clippy::print_stderr) // They panic when the output is closed or full.
)]

pub mod access;
pub mod admin;
pub mod autonat;
pub mod build_info;
pub mod cli;
pub mod config;
pub mod dialback;
pub mod dns;
mod error_chain;
mod failure_log;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod identify;
pub mod identity;
pub mod metrics;
pub mod node;
pub mod peer_stats;
mod pem;
pub mod ping;
pub mod probe;
pub mod pseudonym;
pub mod relay_observer;
pub mod secret;
pub mod telemetry;
mod variable;
