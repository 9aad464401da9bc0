//! The relay as its clients observe it: the protocols that it speaks, the limits that it enforces, and
//! the end of its process. The real binary, real clients, and every transport.

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
