//! The directory of a fleet in DNS.
//!
//! Clients find the relays by one address, `/dnsaddr/<zone>`, which stands for the TXT records of
//! `_dnsaddr.<zone>`. They come from one of two places:
//!
//! - `descord-relay dnsaddr` computes them from the fleet's seed and the relays' names, before
//!   anything runs ([`zone_file`]). Whoever serves them does not know which relays are up.
//! - `descord-relay dns` answers for the zone itself, and follows the relays.
//!
//! ```text
//! names ─► watch: asks each relay's /status, twice a second
//!                      │ reports, taken for hostile
//!                      ▼
//!                  directory: who is listed; pure
//!                      │ when it changes
//!                      ▼
//!                    zone: record sets, immutable
//!                      │ shared with
//!                      ▼
//! packets ─► server ─► answer: bytes to bytes; pure
//!              └ limit: how many answers a network gets
//! ```
//!
//! | module | what belongs there |
//! |---|---|
//! | [`dnsaddr`] | the TXT strings of the records, and what clients can read of them |
//! | [`zone_file`] | the records of the whole fleet, for other name servers |
//! | [`report`] | what a relay says of itself, checked |
//! | [`directory`] | which relays are there and fit now |
//! | [`names`] | where the relays are |
//! | [`watch`] | asks the relays, and puts up the zone that follows from it |
//! | [`zone`] | the record sets |
//! | [`mod@answer`] | one packet, one answer |
//! | [`limit`] | the response-rate limit |
//! | [`server`], [`tcp`] | the sockets |
//! | [`health`] | the server's own HTTP endpoints |
//! | [`metrics`] | what the server counts |
//!
//! The server knows one zone and asks nobody on behalf of a client, so it can be no open
//! resolver; what it sends is hardly larger than what it got, unless the network that seems to ask
//! stays below its limit.

pub mod config;
pub mod directory;
pub mod discovery;
pub mod dnsaddr;
pub mod health;
pub mod metrics;
pub mod poller;
pub mod rate_limit;
pub mod response;
pub mod server;
pub mod status;
pub mod tcp;
pub mod zone;
pub mod zone_file;
