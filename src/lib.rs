//! A libp2p [Circuit Relay v2] server for fleets.
//!
//! The library of the `descord-relay` binary.
//!
//! | module | contents |
//! |---|---|
//! | [`choice`] | values that are written as one of a few words |
//! | [`cli`] | the subcommands |
//! | [`resources`] | resource manager: memory, file descriptors, and shares of address prefixes |
//! | [`config`] | every environment variable: type, unit, default, bounds, documentation |
//! | [`chunk_passing`] | zero-copy transfer of byte chunks between streams |
//! | [`deferred_wake`] | wakers that defer the wake until the current poll has ended |
//! | [`external_address`] | which addresses clients can dial |
//! | [`identity`] | the relay's key pair: configured, derived from the fleet's seed, or ephemeral |
//! | [`pseudonym`] | pseudonyms of peers and networks in logs and telemetry |
//! | [`lifecycle`] | phase of the process, its tasks, drain and shutdown tokens |
//! | [`metrics`] | the catalogue of instruments |
//! | [`log_throttle`] | rate limit of log lines about refused connections and requests |
//! | [`connection_deny_reason`] | why connections are denied or closed |
//! | [`node`] | the swarm and its event loop: serve, drain, close |
//! | [`transport`] | TCP, QUIC and WebSocket, and stream muxers that preserve resets |
//! | [`rate`] | rate limiters for many keys, in bounded memory |
//! | [`relay`] | Circuit Relay v2: reservations, circuits and their limits |
//! | [`thread_buffer`] | per-thread buffers for bytes that are copied within one poll |
//! | [`secret`] | secret text |
//! | [`size`] | sizes in bytes, as text |
//! | [`map_shrink`] | hash maps that release memory after a peak |
//! | [`access`] | access control: rules and the authorization endpoint |
//! | [`peer_stats`] | traffic counters of the most active peers |
//! | [`identify`] | the identify protocol: the relay's identity and addresses |
//! | [`ping`] | responder of the ping protocol |
//! | [`autonat`] | `AutoNAT` server, versions 1 and 2 |
//! | [`dialback`] | which addresses are dialled for `AutoNAT`, and how often |
//! | [`admin`] | the admin API over HTTP |
//! | [`dns`] | the DNS directory of a fleet |
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
pub mod choice;
pub mod chunk_passing;
pub mod cli;
pub mod config;
pub mod connection_deny_reason;
pub mod deferred_wake;
pub mod dialback;
pub mod dns;
pub mod external_address;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod identify;
pub mod identity;
pub mod lifecycle;
pub mod log_throttle;
pub mod map_shrink;
pub mod metrics;
mod named_enum;
pub mod node;
pub mod peer_stats;
pub mod ping;
pub mod probe;
pub mod pseudonym;
pub mod rate;
pub mod relay;
pub mod resources;
pub mod secret;
pub mod size;
pub mod telemetry;
pub mod thread_buffer;
pub mod transport;
