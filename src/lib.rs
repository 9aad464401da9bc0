//! A libp2p [Circuit Relay v2] server for fleets.
//!
//! The crate is the product behind the `descord-relay` binary; its modules are rooms with one
//! purpose each:
//!
//! | module | what belongs there |
//! |---|---|
//! | [`cli`] | the subcommands and what each of them prints |
//! | [`resources`] | what the relay may use of memory and file descriptors, and what follows |
//! | [`config`] | every environment variable: type, unit, default, bounds, documentation |
//! | [`handover`] | pieces that go from one stream to another without a copy |
//! | [`late`] | wakers that wait until a turn has ended |
//! | [`identity`] | the relay's key pair: given, derived from the fleet's seed, or ephemeral |
//! | [`pseudonym`] | the names under which peers appear in logs |
//! | [`lifecycle`] | the phase of the process, its tasks, and how it is told to stop |
//! | [`metrics`] | every instrument, named and described once |
//! | [`node`] | the swarm and its event loop: serve, drain, close |
//! | [`transport`] | TCP, QUIC and WebSocket, and the muxers that can reset what they cut |
//! | [`rate`] | how often something may happen, for each peer and each IP address |
//! | [`relay`] | the protocol: reservations, circuits and their limits |
//! | [`scratch`] | room for bytes on their way, once for every thread |
//! | [`shrink`] | tables that do not keep the room which they once needed |
//! | [`access`] | who may reserve, and who may connect to whom |
//! | [`peers`] | who moves how much through the relay |
//! | [`identify`] | what the relay says of itself |
//! | [`ping`] | answers to who measures whether the relay is there |
//! | [`dialback`] | AutoNAT v2: which addresses the relay dials, and how often |
//! | [`admin`] | the operator's HTTP endpoints |
//! | [`dns`] | the directory of a fleet in DNS |
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
pub mod cli;
pub mod config;
pub mod dialback;
pub mod dns;
pub mod external_address;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod handover;
pub mod identify;
pub mod identity;
pub mod late;
pub mod lifecycle;
pub mod metrics;
pub mod node;
pub mod peers;
pub mod ping;
pub mod probe;
pub mod pseudonym;
pub mod rate;
pub mod refusals;
pub mod relay;
pub mod resources;
pub mod scratch;
pub mod secret;
pub mod shrink;
pub mod telemetry;
pub mod transport;
