//! The relay side of Circuit Relay v2: the *hop* and *stop* protocols.
//!
//! Specification: <https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md>
//!
//! ```text
//! source ── hop stream ──► hop::serve ──► access: allowed?  ledger: within limits?
//!                              │
//!                              ├─ RESERVE: answer with expiry, addresses, voucher, limits
//!                              └─ CONNECT: stop::open ── stop stream ──► target
//!                                          circuit::relay copies between the two
//! ```
//!
//! The [`Handler`] of a connection spawns a task for each inbound hop stream and opens the stop
//! streams that tasks request. The tasks share one [`Relay`]: the reservation table ([`Ledger`]),
//! the key and the counters. Every count is held by an RAII guard, so the table is exact however a
//! task or a connection ends.
//!
//! The relay has [`Limits`], and asks an [`Access`] implementation about each request. It keeps no
//! logs, metrics or spans: an [`Observer`] receives its reports.
//!
//! # Use
//!
//! A program creates a [`Relay`] and adds its [`Behaviour`] to a swarm. It announces the addresses
//! at which clients reach the relay ([`Relay::announce`]); without one, every reservation is
//! refused. [`Relay::expire_reservations`] has to run as a task.
//!
//! ```ignore
//! let relay = Relay::new(keypair, Config { limits, ..Config::default() });
//! let behaviour = Behaviour::new(Arc::clone(&relay));
//! relay.announce(&[external_address]);
//! relay.lifecycle().spawn_cancellable("expiry", Arc::clone(&relay).expire_reservations());
//! ```
//!
//! `examples/embedded.rs` is a complete relay that drains on SIGINT.
//!
//! [`Ledger`]: ledger::Ledger

mod access;
pub mod bandwidth;
mod behaviour;
pub mod circuit;
mod circuit_count;
pub mod circuit_state;
mod connection;
mod deny_reason;
mod drain_limit;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guards;
mod handler;
mod hop;
pub mod ledger;
mod limits;
mod observer;
mod request_limiters;
mod request_shaper;
mod service;
mod stop;
mod traffic;
mod voucher;
pub mod wire;

use self::service::now;
pub use self::{
    access::{Access, Requester},
    behaviour::{Behaviour, MAX_CONNECTIONS_PER_PEER, TooManyConnections},
    circuit_state::CircuitState,
    connection::{Connection, MAX_STREAMS_AWAITING_REQUEST, StopReply, Transport},
    deny_reason::{Denied, DenyReason},
    guards::CircuitLeg,
    handler::Handler,
    hop::{ANSWER_TIMEOUT, REQUEST_TIMEOUT},
    ledger::PeerState,
    limits::{BandwidthLimit, BandwidthLimits, CircuitLimit, Limits, RequestRateLimits},
    observer::{
        CircuitObserver, ClosedCircuit, FinishedStop, Leg, Observer, RequestKind, RequestObserver,
        StopObserver, StopOutcome,
    },
    service::{Config, Relay, Statistics},
    stop::STOP_TIMEOUT,
    traffic::Traffic,
    voucher::{DOMAIN as VOUCHER_DOMAIN, PAYLOAD_TYPE as VOUCHER_PAYLOAD_TYPE, Voucher},
};
