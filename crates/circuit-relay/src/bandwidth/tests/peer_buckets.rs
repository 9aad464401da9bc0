//! Buckets of peers.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use super::super::fair_queue::{Acquire, Ticket};
use super::*;

fn rate() -> ByteRate {
    ByteRate::of(limit(1000, 5000)).unwrap()
}

fn take(bucket: &FairQueue, bytes: u64, now: Instant) {
    let attempt = bucket.poll_acquire(&mut Ticket::default(), bytes, now, Waker::noop());
    assert_eq!(attempt, Acquire::Ready);
}

#[test]
fn peer_keeps_its_bucket_until_it_is_full() {
    let (buckets, now, peer) = (PeerBuckets::new(rate()), now(), PeerId::random());
    let (first, second) = (buckets.acquire(peer, now), buckets.acquire(peer, now));
    take(&first, 4000, now);
    assert_eq!(second.available(now), 1000);
    buckets.release(peer, now);
    assert_eq!(buckets.len(), (1, 0));
    buckets.release(peer, now);
    assert_eq!(buckets.len(), (0, 1));
    // A new circuit soon after does not get another burst.
    let later = now + Duration::from_secs(1);
    assert_eq!(buckets.acquire(peer, later).available(later), 2000);
    assert_eq!(buckets.len(), (1, 0));
    buckets.release(peer, later);
    // The bucket is dropped when it is full.
    let later = later + Duration::from_secs(3);
    buckets.release(PeerId::random(), later);
    assert_eq!(buckets.len(), (0, 0));
    assert_eq!(buckets.acquire(peer, later).available(later), 5000);
}

#[test]
fn number_of_idle_buckets_is_bounded() {
    let (buckets, now) = (PeerBuckets::new(rate()), now());
    let peers: Vec<_> = (0..=super::super::peer_buckets::MAX_IDLE)
        .map(|_| PeerId::random())
        .collect();
    for peer in &peers {
        take(&buckets.acquire(*peer, now), 5000, now);
        buckets.release(*peer, now);
    }
    assert_eq!(buckets.len(), (0, peers.len() - 1));
    // The oldest was dropped.
    assert_eq!(buckets.acquire(peers[0], now).available(now), 5000);
    assert_eq!(buckets.acquire(peers[1], now).available(now), 0);
}

#[tokio::test(start_paused = true)]
async fn unused_bytes_are_refunded() {
    let shared = bandwidth_limiter(BandwidthLimits {
        relay: limit(1000, 2000),
        peer: limit(1000, 2000),
        circuit: BandwidthLimit::default(),
    });
    let [a, b] = [PeerId::random(), PeerId::random()];
    let left = || shared.available().unwrap();
    let mut limiter = shared.circuit(a, b);
    assert_eq!(granted(&mut limiter).await, 1024);
    limiter.consume(24);
    assert_eq!(left(), 976);
    drop(limiter);
    assert_eq!(left(), 1976);
    // A limiter that is dropped while it waits.
    let mut limiter = shared.circuit(b, a);
    assert_eq!(granted(&mut limiter).await, 1024);
    limiter.consume(1024);
    let mut other = shared.circuit(a, PeerId::random());
    let waiting = tokio::time::timeout(Duration::from_millis(1), granted(&mut other));
    assert!(waiting.await.is_err());
    drop(other);
    assert_eq!(left(), 953);
    let waits: Vec<_> = shared.waits().collect();
    assert_eq!(
        waits,
        [
            (BandwidthScope::Circuit, 0),
            (BandwidthScope::Peer, 1),
            (BandwidthScope::Relay, 0)
        ]
    );
    drop(limiter);
    assert_eq!(shared.peers.as_ref().unwrap().len().0, 0);
}
