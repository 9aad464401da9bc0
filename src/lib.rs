//! A libp2p [Circuit Relay v2] server for fleets.
//!
//! The library of the `descord-relay` binary.
//!
//! | module | contents |
//! |---|---|
//! | [`choice`] | values that are written as one of a few words |
//! | [`cli`] | the subcommands |
//! | [`resources`] | the resource manager: limits of memory, file descriptors and connections |
//! | [`config`] | every environment variable: type, unit, default, bounds, documentation |
//! | [`handover`] | passing of buffers between streams without a copy |
//! | [`late`] | wakers that are deferred until the end of a poll |
//! | [`external_address`] | which addresses clients can dial |
//! | [`identity`] | the relay's key pair: configured, derived from the fleet's seed, or ephemeral |
//! | [`pseudonym`] | the names of peers in logs and telemetry |
//! | [`lifecycle`] | the phase of the process, its tasks, drain and shutdown |
//! | [`metrics`] | the catalogue of instruments |
//! | [`node`] | the swarm and its event loop: serve, drain, close |
//! | [`transport`] | TCP, QUIC and WebSocket, and stream muxers that preserve resets |
//! | [`rate`] | rate limits per peer and per IP address |
//! | [`relay`] | Circuit Relay v2: reservations, circuits and their limits |
//! | [`scratch`] | per-thread buffers for data in transit |
//! | [`secret`] | secret text |
//! | [`size`] | sizes in bytes, as text |
//! | [`shrink`] | hash maps that shrink after peaks |
//! | [`access`] | access control for reservations and circuits |
//! | [`peers`] | statistics per peer |
//! | [`identify`] | the identify protocol |
//! | [`ping`] | the ping responder |
//! | [`dialback`] | AutoNAT v2: limits of dialback |
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
