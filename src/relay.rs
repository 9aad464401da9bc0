//! Circuit Relay v2, the relay's side: *hop* in, *stop* out.
//!
//! Specification: <https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md>
//!
//! ```text
//! source ── hop stream ──► hop::serve ──► access: may it?  ledger: is there room?
//!                              │
//!                              ├─ RESERVE: answer with expiry, addresses, voucher, limits
//!                              └─ CONNECT: stop::open ── stop stream ──► target
//!                                          circuit::relay copies between the two
//! ```
//!
//! A connection's [`Handler`] spawns a task for each hop stream that comes in and opens the stop
//! streams that tasks ask for. The tasks share one [`Relay`]: the books ([`Ledger`]), the key and
//! the totals. Whatever counts is a guard that takes itself back when it is dropped, so the books
//! are right however a task or a connection ends.
//!
//! [`Ledger`]: ledger::Ledger

mod access;
pub mod bandwidth;
mod behaviour;
pub mod circuit;
pub mod circuit_state;
mod connection;
mod deny_reason;
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
    stop::STOP_TIMEOUT,
    traffic::Traffic,
    voucher::{DOMAIN as VOUCHER_DOMAIN, PAYLOAD_TYPE as VOUCHER_PAYLOAD_TYPE, Voucher},
};
