//! Limits of the relay: in total, per peer, per IP address and per circuit.

use std::time::Duration;

use rate_limits::{Rate, Unit};
use resource_manager::{CircuitLimits, Shares};
use stream_io::thread_buffer::STEP_BYTES;

/// Limits of the relay. `None` is unlimited. The defaults are those of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Reservations in total.
    pub reservations: Option<usize>,
    /// Connections of one peer that hold its reservation.
    pub reservations_per_peer: Option<usize>,
    /// Reservations of one IP address (IPv6: of one /64).
    pub reservations_per_ip: Option<usize>,
    /// Time to live of a reservation.
    pub reservation_ttl: Duration,
    /// Circuits in total.
    pub circuits: Option<usize>,
    /// Circuits of one peer as source.
    pub circuits_per_source: Option<usize>,
    /// Circuits of one peer as target.
    pub circuits_per_target: Option<usize>,
    /// How long a circuit may stay open before its target has sent the first byte.
    pub unused_circuit_timeout: Option<Duration>,
    /// How long a used circuit may stay open without a byte in either direction.
    pub idle_circuit_timeout: Option<Duration>,
    /// Shares of reservations and circuits that apply to address prefixes under scarcity.
    pub prefix_shares: Shares,
    /// Limits of each circuit.
    pub circuit: CircuitLimit,
    /// Rate of reservation requests. Renewals are exempt.
    pub reservation_rate: RequestRateLimits,
    /// Rate of circuit requests.
    pub circuit_rate: RequestRateLimits,
    /// Bandwidth limits.
    pub bandwidth: BandwidthLimits,
}

impl Limits {
    /// The number of circuits for which the transports provide windows.
    pub fn circuit_limits(&self) -> CircuitLimits {
        CircuitLimits {
            total: self.circuits,
            per_source: self.circuits_per_source,
            per_target: self.circuits_per_target,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // With this number and that of circuits, a relay runs in 512 MiB of memory
            // (`docs/sizing.md`).
            reservations: Some(1024),
            // A client may have an old connection that is dead, but not detected as such, in addition
            // to its new one (`docs/design/decisions/0011-reservation-belongs-to-peer.md`).
            reservations_per_peer: Some(3),
            // A reservation is never evicted for another one, so an address could hold three quarters
            // of all before shares apply. This limit is half of the share of an address, an eighth.
            reservations_per_ip: Some(64),
            reservation_ttl: Duration::from_secs(60 * 60),
            // Also determines the windows, which fit into the memory for this number of circuits
            // (`docs/sizing.md`).
            circuits: Some(512),
            circuits_per_source: Some(5),
            // One address can use 3 of the circuits to a target, its /24 or /48 can use 4, so a fifth
            // one is left for other sources (`docs/limits.md`).
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
            reservation_rate: RequestRateLimits {
                // A client reserves once, and again after a lost connection: this rate allows a loss
                // every six seconds.
                per_peer: Some(Rate::fixed(20, 10, Unit::Minute)),
                // The burst is that of connections: each connection may request a reservation.
                per_ip: Some(Rate::fixed(500, 10, Unit::Second)),
            },
            circuit_rate: RequestRateLimits {
                // A client that joins a network may look for a hundred peers at once, and needs few
                // circuits once it has direct connections to them.
                per_peer: Some(Rate::fixed(100, 2, Unit::Second)),
                // Ten such clients at once.
                per_ip: Some(Rate::fixed(1000, 20, Unit::Second)),
            },
            bandwidth: BandwidthLimits::default(),
        }
    }
}

/// Rates of one kind of request. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestRateLimits {
    /// Per peer.
    pub per_peer: Option<Rate>,
    /// Per IP address (IPv6: per /64).
    pub per_ip: Option<Rate>,
}

/// Limits of one circuit. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitLimit {
    /// Longest duration.
    pub duration: Option<Duration>,
    /// Bytes in each direction.
    pub bytes: Option<u64>,
}

/// Bandwidth limits. Each byte, in either direction, counts for its circuit, for both peers of the
/// circuit and for the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BandwidthLimits {
    /// All circuits of the relay.
    pub relay: BandwidthLimit,
    /// All circuits of one peer, as source and as target.
    pub peer: BandwidthLimit,
    /// One circuit.
    pub circuit: BandwidthLimit,
}

/// A token bucket: a rate and a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BandwidthLimit {
    /// Bytes per second; `None` is unlimited.
    pub rate: Option<u64>,
    /// Size of the bucket in bytes. `None` is one second of the rate, or the size of one copy step
    /// if that is larger. Smaller values than a hundredth of a second of the rate are raised to
    /// that, because timers are not precise enough to use less.
    pub burst: Option<u64>,
}

impl BandwidthLimit {
    /// Effective size of the bucket in bytes; `None` if the rate is unlimited.
    pub fn burst(&self) -> Option<u64> {
        let rate = self.rate?;
        let burst = self.burst.unwrap_or(rate.max(STEP_BYTES as u64));
        Some(burst.max(rate / 100))
    }
}
