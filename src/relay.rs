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
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guards;
mod handler;
mod hop;
pub mod ledger;
mod limits;
mod request_limiters;
mod request_shaper;
mod service;
mod spans;
mod stop;
mod traffic;
mod voucher;
pub mod wire;

pub(crate) use self::service::now;
pub use self::{
    access::{Access, Requester},
    behaviour::{Behaviour, MAX_CONNECTIONS_PER_PEER, TooManyConnections},
    circuit_state::CircuitState,
    connection::{Connection, MAX_STREAMS_AWAITING_REQUEST, Transport},
    deny_reason::{Denied, DenyReason},
    handler::Handler,
    hop::{ANSWER_TIMEOUT, REQUEST_TIMEOUT},
    ledger::PeerState,
    limits::{BandwidthLimit, BandwidthLimits, CircuitLimit, Limits, RequestRateLimits},
    service::{Relay, Statistics},
    stop::{STOP_TIMEOUT, StopOutcome},
    traffic::Traffic,
    voucher::{DOMAIN as VOUCHER_DOMAIN, PAYLOAD_TYPE as VOUCHER_PAYLOAD_TYPE, Voucher},
};
