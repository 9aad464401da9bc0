//! Bytes relayed, by direction and by the transports of both legs.

use std::{
    iter::zip,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::connection::Transport;

/// Bytes of one pair of transports, to the target and to the source.
type PairCounters = [AtomicU64; 2];

/// Names of the directions in logs and metrics.
const DIRECTIONS: [&str; 2] = ["to_target", "to_source"];

/// Byte counters of all pairs of transports.
#[derive(Debug, Default)]
pub struct Traffic {
    pairs: [[Arc<PairCounters>; Transport::ALL.len()]; Transport::ALL.len()],
    waits: AtomicU64,
}

impl Traffic {
    /// Counters of circuits from `source` to `target`.
    pub(super) fn counters(&self, source: Transport, target: Transport) -> ByteCounters {
        let pair = self
            .pairs
            .get(source as usize)
            .and_then(|pairs| pairs.get(target as usize));
        ByteCounters(pair.cloned().unwrap_or_default())
    }

    /// Counts times that a side stopped accepting data, so that the other side was not read.
    pub(super) fn count_waits(&self, times: u64) {
        self.waits.fetch_add(times, Ordering::Relaxed);
    }

    /// Times that a side stopped accepting data, so that the other side was not read.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Total of all bytes.
    pub fn bytes(&self) -> u64 {
        let pairs = self.pairs.iter().flatten();
        pairs
            .flat_map(|pair| pair.iter())
            .map(|bytes| bytes.load(Ordering::Relaxed))
            .sum()
    }

    /// Calls `each` with every nonzero counter: the direction, the transports of source and target,
    /// and the bytes.
    pub fn for_each(&self, mut each: impl FnMut(&'static str, Transport, Transport, u64)) {
        for (source, pairs) in zip(Transport::ALL, &self.pairs) {
            for (target, pair) in zip(Transport::ALL, pairs) {
                for (direction, bytes) in zip(DIRECTIONS, pair.iter()) {
                    match bytes.load(Ordering::Relaxed) {
                        0 => {}
                        bytes => each(direction, source, target, bytes),
                    }
                }
            }
        }
    }
}

/// The counters that one circuit adds to.
#[derive(Clone, Debug)]
pub(super) struct ByteCounters(Arc<PairCounters>);

impl ByteCounters {
    pub(super) fn add(&self, to_target: u64, to_source: u64) {
        for (total, bytes) in zip(self.0.iter(), [to_target, to_source]) {
            if bytes > 0 {
                total.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_by_direction_and_transports() {
        let traffic = Traffic::default();
        traffic.counters(Transport::Tcp, Transport::Quic).add(3, 0);
        traffic.counters(Transport::Tcp, Transport::Quic).add(2, 7);
        traffic.counters(Transport::Quic, Transport::Tcp).add(0, 1);
        let mut seen = Vec::new();
        traffic.for_each(|direction, source, target, bytes| {
            seen.push((direction, source.as_str(), target.as_str(), bytes));
        });
        assert_eq!(
            seen,
            [
                ("to_target", "tcp", "quic", 5),
                ("to_source", "tcp", "quic", 7),
                ("to_source", "quic", "tcp", 1),
            ]
        );
        assert_eq!(traffic.bytes(), 13);
    }
}
