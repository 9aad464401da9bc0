//! A libp2p [Circuit Relay v2] server for fleets.
//!
//! The crate is the product behind the `descord-relay` binary; its modules are rooms with one
//! purpose each:
//!
//! | module | what belongs there |
//! |---|---|
//! | [`cli`] | the subcommands and what each of them prints |
//! | [`resources`] | resource manager: memory, file descriptors, and shares of address prefixes |
//! | [`connection_deny_reason`] | why connections are denied or closed |
//! | [`config`] | every environment variable: type, unit, default, bounds, documentation |
//! | [`chunk_passing`] | zero-copy transfer of byte chunks between streams |
//! | [`deferred_wake`] | wakers that defer the wake until the current poll has ended |
//! | [`identity`] | the relay's key pair: given, derived from the fleet's seed, or ephemeral |
//! | [`pseudonym`] | pseudonyms of peers and networks in logs and telemetry |
//! | [`lifecycle`] | phase of the process, its tasks, drain and shutdown tokens |
//! | [`metrics`] | every instrument, named and described once |
//! | [`log_throttle`] | rate limit of log lines about refused connections and requests |
//! | [`node`] | the swarm and its event loop: serve, drain, close |
//! | [`transport`] | TCP, QUIC and WebSocket, and the muxers that can reset what they cut |
//! | [`rate`] | rate limiters for many keys, in bounded memory |
//! | [`relay`] | the protocol: reservations, circuits and their limits |
//! | [`scratch`] | room for bytes on their way, once for every thread |
//! | [`shrink`] | tables that do not keep the room which they once needed |
//! | [`access`] | access control: rules and the authorization endpoint |
//! | [`peer_stats`] | traffic counters of the most active peers |
//! | [`identify`] | the identify protocol: the relay's identity and addresses |
//! | [`ping`] | responder of the ping protocol |
//! | [`dialback`] | `AutoNAT` v2 server with limits on its dials |
//! | [`admin`] | the operator's HTTP endpoints |
//! | [`fleet`] | the directory of a fleet in DNS |
//! | [`telemetry`] | the event log, traces, and metrics for whoever reads them |
//! | `fuzzing` | what must hold whatever bytes come in; for tests and fuzzers alone |
//! | [`probe`] | a client that proves that a relay works, end to end |
//!
//! [Circuit Relay v2]: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md

#![cfg_attr(
    not(test),
    warn(clippy::print_stdout, clippy::print_stderr) // They panic when the output is closed or full.
)]

pub mod access;
pub mod admin;
pub mod chunk_passing;
pub mod cli;
pub mod config;
pub mod connection_deny_reason;
pub mod deferred_wake;
pub mod dialback;
pub mod fleet;
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
pub mod telemetry;
pub mod thread_buffer;
pub mod transport;
