//! The DNS directory of a fleet.
//!
//! Clients find the relays through one address, `/dnsaddr/<zone>`, which resolves to the TXT records
//! of `_dnsaddr.<zone>`. The records come from one of two places:
//!
//! - `descord-relay dnsaddr` computes them from the fleet's seed and the relays' names, before any
//!   relay runs ([`zone_file`]). The name server that publishes them does not know which relays are
//!   up.
//! - `descord-relay dns` is an authoritative DNS server for the zone that polls the relays.
//!
//! ```text
//! discovery ─► poller: polls /status of each relay, twice a second
//!                      │ statuses; untrusted input
//!                      ▼
//!                  directory: which relays are published; pure
//!                      │ on change
//!                      ▼
//!                    zone: record sets; immutable
//!                      │ shared with
//!                      ▼
//! packets ─► server ─► response: bytes to bytes; pure
//!              └ rate_limit: responses per client network
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | the settings |
//! | [`dnsaddr`] | the TXT records, and the limits of client implementations |
//! | [`zone_file`] | the records of the whole fleet, for other name servers |
//! | [`status`] | a relay's status, validated |
//! | [`directory`] | which relays are up and ready |
//! | [`discovery`] | resolves the relays' host names |
//! | [`poller`] | polls the relays and publishes the resulting zone |
//! | [`zone`] | the record sets |
//! | `responder` | responds for the current zone, and reports each query |
//! | [`response`] | the response to one packet |
//! | [`rate_limit`] | response rate limiting |
//! | [`server`], `udp`, [`tcp`] | the sockets |
//! | [`observer`] | what the server reports to its program |
//! | [`external_address`] | which addresses clients can dial |
//!
//! The server answers for one zone and never recurses, so it cannot be an open resolver. Rate
//! limiting bounds its use for amplification: beyond the limit, a response is no longer than the
//! query.

pub mod config;
pub mod directory;
pub mod discovery;
pub mod dnsaddr;
pub mod external_address;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod observer;
pub mod poller;
pub mod rate_limit;
mod responder;
pub mod response;
pub mod server;
pub mod status;
pub mod tcp;
mod udp;
pub mod zone;
pub mod zone_file;
