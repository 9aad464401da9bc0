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
//! circuit. Without any limit there is no [`BandwidthLimiter`] at all.

mod bucket;
mod circuit_limiter;
mod fair_queue;
mod peer_buckets;
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

pub use self::circuit_limiter::CircuitLimiter;
use self::{fair_queue::FairQueue, peer_buckets::PeerBuckets};
use super::{
    limits::{BandwidthLimit, BandwidthLimits},
    now,
};
use crate::named_enum::named_enum;

/// How long a turn takes where the rate is the lowest. A timer is exact to a millisecond or two:
/// shorter ones would not be fairer.
const QUANTUM_DURATION: Duration = Duration::from_millis(4);
/// The least that is worth to be read at once, in bytes, however low the rate.
const MIN_QUANTUM: u64 = 1024;

named_enum! {
    /// What a bandwidth limit applies to.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum BandwidthScope {
        /// One circuit.
        Circuit = "circuit",
        /// All circuits of one peer.
        Peer = "peer",
        /// All circuits of the relay.
        Relay = "relay",
    }
}

/// The bandwidth of a relay that has a limit, and who waits for it.
#[derive(Debug)]
pub struct BandwidthLimiter {
    /// What a circuit takes at once, in bytes.
    quantum: u64,
    circuit: Option<ByteRate>,
    peers: Option<PeerBuckets>,
    relay: Option<FairQueue>,
    waits: [AtomicU64; BandwidthScope::ALL.len()],
}

impl BandwidthLimiter {
    /// Holds circuits to `limits`; nothing when there are none.
    pub fn new(limits: &BandwidthLimits) -> Option<Arc<Self>> {
        let rates = [limits.circuit, limits.peer, limits.relay].map(ByteRate::of);
        let quantum = rates.into_iter().flatten().map(ByteRate::quantum).min()?;
        let [circuit, peer, relay] = rates;
        Some(Arc::new(Self {
            quantum,
            circuit,
            peers: peer.map(PeerBuckets::new),
            relay: relay.map(|rate| FairQueue::new(rate, now())),
            waits: Default::default(),
        }))
    }

    /// The share of a circuit between these peers, for as long as it lives.
    pub fn circuit(self: &Arc<Self>, source: PeerId, target: PeerId) -> CircuitLimiter {
        let (now, peers) = (now(), [source, target]);
        let mut buckets = Vec::new();
        buckets.extend(
            self.circuit
                .map(|rate| (BandwidthScope::Circuit, FairQueue::new(rate, now))),
        );
        if let Some(peer_buckets) = &self.peers {
            buckets
                .extend(peers.map(|peer| (BandwidthScope::Peer, peer_buckets.acquire(peer, now))));
        }
        buckets.extend(
            self.relay
                .clone()
                .map(|bucket| (BandwidthScope::Relay, bucket)),
        );
        CircuitLimiter::new(Arc::clone(self), peers, buckets)
    }

    /// How often circuits had to wait for their turn, by whose bandwidth it was for.
    pub fn waits(&self) -> impl Iterator<Item = (BandwidthScope, u64)> {
        zip(BandwidthScope::ALL, &self.waits)
            .map(|(scope, waits)| (scope, waits.load(Ordering::Relaxed)))
    }

    /// How many bytes may pass through the relay at once; nothing when all may.
    pub fn available(&self) -> Option<u64> {
        Some(self.relay.as_ref()?.available(now()))
    }

    fn count_wait(&self, scope: BandwidthScope) {
        if let Some(waits) = self.waits.get(scope as usize) {
            waits.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn release_peers(&self, peers: [PeerId; 2]) {
        if let Some(buckets) = &self.peers {
            let now = now();
            for peer in peers {
                buckets.release(peer, now);
            }
        }
    }
}

/// A limit, with everything said that it leaves open.
#[derive(Clone, Copy, Debug)]
struct ByteRate {
    bytes_per_second: u64,
    burst: u64,
}

impl ByteRate {
    fn of(limit: BandwidthLimit) -> Option<Self> {
        Some(Self {
            bytes_per_second: limit.rate?,
            burst: limit.burst()?,
        })
    }

    /// What passes in a turn. Never more than the burst, which would be exceeded.
    fn quantum(self) -> u64 {
        let bytes = u128::from(self.bytes_per_second) * QUANTUM_DURATION.as_nanos() / 1_000_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        bytes.max(MIN_QUANTUM).min(self.burst).max(1)
    }
}
