//! How much the relay gives: to everybody, to one peer, to one IP address, to one circuit.

use std::time::Duration;

use crate::rate::{Rate, Unit};
use crate::resources::Shares;
use crate::scratch::STEP_BYTES;

/// The relay's limits. `None` is unlimited.
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
    /// Circuits that one peer may have open at once as source.
    pub circuits_per_source: Option<usize>,
    /// Circuits that may lead to one peer at once.
    pub circuits_per_target: Option<usize>,
    /// How long a circuit may stay open until its target has sent the first byte.
    pub unused_circuit_timeout: Option<Duration>,
    /// How long a used circuit may stay open without a byte in either direction.
    pub idle_circuit_timeout: Option<Duration>,
    /// Which part of reservations and circuits an address prefix may use under scarcity.
    pub prefix_shares: Shares,
    /// The limits of each circuit.
    pub circuit: CircuitLimit,
    /// How often there may be a request to reserve. Renewals are none.
    pub reservation_rate: RequestRate,
    /// How often there may be a request for a circuit.
    pub circuit_rate: RequestRate,
    /// How fast bytes may pass.
    pub bandwidth: Bandwidth,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reservations: Some(1024),
            reservations_per_peer: Some(3),
            reservations_per_ip: Some(64),
            reservation_ttl: Duration::from_secs(60 * 60),
            circuits: Some(512),
            circuits_per_source: Some(5),
            circuits_per_target: Some(5),
            // Long enough for a handshake and the first request over a slow network.
            unused_circuit_timeout: Some(Duration::from_secs(30)),
            // Off: applications keep quiet circuits open for hours.
            idle_circuit_timeout: None,
            prefix_shares: Shares::default(),
            circuit: CircuitLimit {
                duration: Some(Duration::from_secs(60 * 60)),
                bytes: Some(100_000_000),
            },
            reservation_rate: RequestRate {
                // A client reserves once, and again after a lost connection: this rate allows a loss
                // every six seconds.
                per_peer: Some(Rate::fixed(20, 10, Unit::Minute)),
                // The burst is that of connections: each connection may request a reservation.
                per_ip: Some(Rate::fixed(500, 10, Unit::Second)),
            },
            circuit_rate: RequestRate {
                // A client that joins a network may look for a hundred peers at once, and needs few
                // circuits once it has direct connections to them.
                per_peer: Some(Rate::fixed(100, 2, Unit::Second)),
                // Ten such clients at once.
                per_ip: Some(Rate::fixed(1000, 20, Unit::Second)),
            },
            bandwidth: Bandwidth::default(),
        }
    }
}

/// How often a request of one kind may come. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestRate {
    /// From one peer.
    pub per_peer: Option<Rate>,
    /// From one IP address (IPv6: one /64).
    pub per_ip: Option<Rate>,
}

/// The limits of one circuit. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitLimit {
    /// How long it may stay open.
    pub duration: Option<Duration>,
    /// How many bytes it may carry in each direction.
    pub bytes: Option<u64>,
}

/// How fast bytes may pass. A byte counts once for its circuit, once for each of the circuit's two
/// peers and once for the relay, whichever way it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Through all circuits together.
    pub relay: Pace,
    /// Through all circuits of one peer, as source and as target together.
    pub peer: Pace,
    /// Through one circuit.
    pub circuit: Pace,
}

/// How fast bytes may pass through one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second; `None` is as fast as they come.
    pub rate: Option<u64>,
    /// Bytes that may pass at once when fewer have passed before; `None` is a second's worth, and
    /// what the relay copies at once if that is more. Less than a hundredth of a second's worth is
    /// as much: timers are not exact enough to come back for it in time.
    pub burst: Option<u64>,
}

impl Pace {
    /// Bytes that may pass at once when fewer have passed before; `None` if all may.
    pub fn burst(&self) -> Option<u64> {
        let rate = self.rate?;
        let burst = self.burst.unwrap_or(rate.max(STEP_BYTES as u64));
        Some(burst.max(rate / 100))
    }
}
