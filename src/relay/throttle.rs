//! How fast bytes may pass: through one circuit, through all circuits of a peer, and through all.
//!
//! A circuit that is too fast is not read for a while: flow control holds up whoever sends, and
//! nothing is buffered or dropped. Before it reads, a circuit takes one *quantum* of bytes out of
//! the bucket of each that it belongs to, and reads no more than that; what it did
//! not read it gives back.
//!
//! # Fairness
//!
//! Where there is not enough, circuits stand in line, and whoever has had its quantum
//! goes to the end: between two turns of a circuit every other one has one at most. Both directions
//! share the circuit's turn, and the quantum stays with them until it is used up or nothing is there
//! to be read. So busy circuits get the same, to within a quantum, whatever the size of their pieces
//! and whenever they came; and what a quiet one has to say waits for one quantum of each busy one.
//!
//! A circuit stands in one line after the other: its own, which is for itself, those of its peers,
//! and last the one of the relay, where everybody meets; it takes nothing there that it cannot use
//! at once. In the lines before, it may be ahead by the one quantum that it has.
//!
//! # Cost
//!
//! A grant locks each bucket once or twice and costs the same however many wait; one timer runs for
//! each line. Memory is a bucket for each circuit and each peer, and a place in one line for each
//! circuit. Without any limit there is no [`Throttle`] at all.

mod bucket;
mod line;
mod pacer;
mod peers;
#[cfg(test)]
mod tests;

use std::{
    iter::zip,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::PeerId;

pub use self::pacer::Pacer;
use self::{line::Line, peers::PeerBuckets};
use super::{
    limits::{Bandwidth, Pace},
    now,
};

/// How long a turn takes where the rate is the lowest. A timer is exact to a millisecond or two:
/// shorter ones would not be fairer.
const TURN: Duration = Duration::from_millis(4);
/// The least that is worth to be read at once, in bytes, however low the rate.
const MIN_QUANTUM: u64 = 1024;

/// Whose bandwidth it is that a circuit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its own.
    Circuit,
    /// That of its source or its target.
    Peer,
    /// The relay's.
    Relay,
}

impl Cause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Circuit, Self::Peer, Self::Relay];

    /// A short, stable word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Circuit => "circuit",
            Self::Peer => "peer",
            Self::Relay => "relay",
        }
    }
}

/// The bandwidth of a relay that has a limit, and who waits for it.
#[derive(Debug)]
pub struct Throttle {
    /// What a circuit takes at once, in bytes.
    quantum: u64,
    circuit: Option<Rate>,
    peers: Option<PeerBuckets>,
    relay: Option<Line>,
    waits: [AtomicU64; Cause::ALL.len()],
}

impl Throttle {
    /// Holds circuits to `limits`; nothing when there are none.
    pub fn new(limits: &Bandwidth) -> Option<Arc<Self>> {
        let rates = [limits.circuit, limits.peer, limits.relay].map(Rate::of);
        let quantum = rates.into_iter().flatten().map(Rate::quantum).min()?;
        let [circuit, peer, relay] = rates;
        Some(Arc::new(Self {
            quantum,
            circuit,
            peers: peer.map(PeerBuckets::new),
            relay: relay.map(|rate| Line::new(rate, now())),
            waits: Default::default(),
        }))
    }

    /// The share of a circuit between these peers, for as long as it lives.
    pub fn circuit(self: &Arc<Self>, source: PeerId, target: PeerId) -> Pacer {
        let (now, peers) = (now(), [source, target]);
        let mut buckets = Vec::new();
        buckets.extend(
            self.circuit
                .map(|rate| (Cause::Circuit, Line::new(rate, now))),
        );
        if let Some(buckets_of) = &self.peers {
            buckets.extend(peers.map(|peer| (Cause::Peer, buckets_of.join(peer, now))));
        }
        buckets.extend(self.relay.clone().map(|bucket| (Cause::Relay, bucket)));
        Pacer::new(Arc::clone(self), peers, buckets)
    }

    /// How often circuits had to wait for their turn, by whose bandwidth it was for.
    pub fn waits(&self) -> impl Iterator<Item = (Cause, u64)> {
        zip(Cause::ALL, &self.waits).map(|(cause, waits)| (cause, waits.load(Ordering::Relaxed)))
    }

    /// How many bytes may pass through the relay at once; nothing when all may.
    pub fn left(&self) -> Option<u64> {
        Some(self.relay.as_ref()?.left(now()))
    }

    fn waited(&self, cause: Cause) {
        if let Some(waits) = self.waits.get(cause as usize) {
            waits.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn leave(&self, peers: [PeerId; 2]) {
        if let Some(buckets) = &self.peers {
            let now = now();
            for peer in peers {
                buckets.leave(peer, now);
            }
        }
    }
}

/// A limit, with everything said that it leaves open.
#[derive(Clone, Copy, Debug)]
struct Rate {
    bytes_per_second: u64,
    burst: u64,
}

impl Rate {
    fn of(pace: Pace) -> Option<Self> {
        Some(Self {
            bytes_per_second: pace.rate?,
            burst: pace.burst()?,
        })
    }

    /// What passes in a turn. Never more than the burst, which would be exceeded.
    fn quantum(self) -> u64 {
        let turn = u128::from(self.bytes_per_second) * TURN.as_nanos() / 1_000_000_000;
        let turn = u64::try_from(turn).unwrap_or(u64::MAX);
        turn.max(MIN_QUANTUM).min(self.burst).max(1)
    }
}
