//! What the DNS directory of a fleet needs of the process: its HTTP endpoints, its instruments, and a
//! client of the relays' status. The directory itself is the crate [`fleet_dns`].

pub mod health;
pub mod metrics;
pub mod status_client;
