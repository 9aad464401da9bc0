//! The relay from the clients' perspective: protocols, limits and drain, with the real binary, real
//! clients and every transport.

mod access;
mod autonat;
mod bandwidth;
mod capacity;
mod circuit_limits;
mod drain;
mod identify;
mod identities;
mod lossless_upgrade;
mod ping;
mod private_network;
mod proxy_protocol;
mod rates;
mod resources;
mod slow_network;
mod transports;
