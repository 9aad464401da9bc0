//! Bandwidth limits: per circuit, per peer and for the whole relay.
//!
//! A circuit that exceeds a limit is not read for a while. Flow control carries the back-pressure
//! to the sender, and nothing is buffered or dropped. Before it reads, a circuit acquires one
//! *quantum* of bytes from each token bucket that applies to it, and reads no more than that.
//! Unused bytes are refunded.
//!
//! # Fairness
//!
//! When a bucket is exhausted, circuits wait in a FIFO queue, and a circuit that has had its
//! quantum is appended to the queue. Between two turns of a circuit, every other circuit therefore
//! has at most one. Both directions share the quantum and keep it until it is used up or neither
//! has anything to read. Busy circuits thus get equal bandwidth to within a quantum, regardless of
//! the size of their reads, and a mostly idle circuit waits for at most one quantum of each busy
//! one.
//!
//! A circuit queues for one bucket after the other: its own, those of its peers, and last that of
//! the relay, so that it takes from the shared bucket only what it can use at once. In the earlier
//! buckets it may be ahead by one quantum.
//!
//! # Cost
//!
//! A grant locks each bucket once or twice, regardless of the number of waiting circuits. Each
//! queue has one timer. Memory is one bucket per circuit and peer, and one queue entry per circuit.
//! Without a limit there is no [`BandwidthLimiter`].

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
use named_enum::named_enum;

pub use self::circuit_limiter::CircuitLimiter;
use self::{fair_queue::FairQueue, peer_buckets::PeerBuckets};
use super::{
    limits::{BandwidthLimit, BandwidthLimits},
    now,
};

/// Duration of a quantum at the lowest rate. Timers are accurate to one or two milliseconds, so a
/// shorter one would not be fairer.
const QUANTUM_DURATION: Duration = Duration::from_millis(4);
/// Smallest quantum in bytes, at any rate.
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

/// Bandwidth limits of a relay, with the queues for them.
#[derive(Debug)]
pub struct BandwidthLimiter {
    /// Bytes that a circuit acquires at a time.
    quantum: u64,
    circuit: Option<ByteRate>,
    peers: Option<PeerBuckets>,
    relay: Option<FairQueue>,
    waits: [AtomicU64; BandwidthScope::ALL.len()],
}

impl BandwidthLimiter {
    /// Creates a limiter for `limits`; `None` if all are unlimited.
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

    /// Creates the limiter of a circuit between these peers.
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

    /// Times that circuits had to wait for bandwidth, by scope.
    pub fn waits(&self) -> impl Iterator<Item = (BandwidthScope, u64)> {
        zip(BandwidthScope::ALL, &self.waits)
            .map(|(scope, waits)| (scope, waits.load(Ordering::Relaxed)))
    }

    /// Bytes in the bucket of the relay; `None` if it is unlimited.
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

/// A limit with all defaults filled in.
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

    /// Bytes that a circuit acquires at a time at this rate. At most the burst, which a bucket
    /// cannot exceed.
    fn quantum(self) -> u64 {
        let bytes = u128::from(self.bytes_per_second) * QUANTUM_DURATION.as_nanos() / 1_000_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        bytes.max(MIN_QUANTUM).min(self.burst).max(1)
    }
}
