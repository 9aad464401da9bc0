//! How much the relay gives: to everybody, to one peer, to one IP address, to one circuit.

use std::time::Duration;

/// The relay's limits. `None` is unlimited; the defaults are those of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Peers that may hold a reservation at once.
    pub reservations: Option<usize>,
    /// Connections of one peer that may hold its reservation at once.
    pub reservations_per_peer: Option<usize>,
    /// Peers behind one IP address (IPv6: one /64) that may hold a reservation at once.
    pub reservations_per_ip: Option<usize>,
    /// How long a reservation lives unless it is renewed.
    pub reservation_ttl: Duration,
    /// Circuits that may be open at once.
    pub circuits: Option<usize>,
    /// Circuits that one peer may have open at once, as source and as target together.
    pub circuits_per_peer: Option<usize>,
    /// The limits of each circuit.
    pub circuit: CircuitLimit,
}

/// The limits of one circuit. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitLimit {
    /// How long it may stay open.
    pub duration: Option<Duration>,
    /// How many bytes it may carry in each direction.
    pub bytes: Option<u64>,
}
