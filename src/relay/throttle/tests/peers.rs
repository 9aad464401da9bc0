//! The buckets of peers.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use super::super::line::{Attempt, Place};
use super::*;

fn rate() -> Rate {
    Rate::of(pace(1000, 5000)).unwrap()
}

fn take(bucket: &Line, bytes: u64, now: Instant) {
    let attempt = bucket.take(&mut Place::default(), bytes, now, Waker::noop());
    assert_eq!(attempt, Attempt::Taken);
}

#[test]
fn a_peer_has_one_bucket_and_finds_it_again_as_it_was() {
    let (buckets, now, peer) = (PeerBuckets::new(rate()), now(), PeerId::random());
    let (first, second) = (buckets.join(peer, now), buckets.join(peer, now));
    take(&first, 4000, now);
    assert_eq!(second.left(now), 1000);
    buckets.leave(peer, now);
    assert_eq!(buckets.len(), (1, 0));
    buckets.leave(peer, now);
    assert_eq!(buckets.len(), (0, 1));
    // Another circuit soon after does not come with another burst.
    let later = now + Duration::from_secs(1);
    assert_eq!(buckets.join(peer, later).left(later), 2000);
    assert_eq!(buckets.len(), (1, 0));
    buckets.leave(peer, later);
    // Until it would be full anyway.
    let later = later + Duration::from_secs(3);
    buckets.leave(PeerId::random(), later);
    assert_eq!(buckets.len(), (0, 0));
    assert_eq!(buckets.join(peer, later).left(later), 5000);
}

#[test]
fn no_more_are_kept_than_are_allowed() {
    let (buckets, now) = (PeerBuckets::new(rate()), now());
    let peers: Vec<_> = (0..=super::super::peers::MAX_RESTING)
        .map(|_| PeerId::random())
        .collect();
    for peer in &peers {
        take(&buckets.join(*peer, now), 5000, now);
        buckets.leave(*peer, now);
    }
    assert_eq!(buckets.len(), (0, peers.len() - 1));
    // The oldest went.
    assert_eq!(buckets.join(peers[0], now).left(now), 5000);
    assert_eq!(buckets.join(peers[1], now).left(now), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_circuit_did_not_use_is_there_for_the_next_one() {
    let throttle = throttle(Bandwidth {
        relay: pace(1000, 2000),
        peer: pace(1000, 2000),
        circuit: Pace::default(),
    });
    let [a, b] = [PeerId::random(), PeerId::random()];
    let left = || throttle.left().unwrap();
    let mut pacer = throttle.circuit(a, b);
    assert_eq!(granted(&mut pacer).await, 1024);
    pacer.spend(24);
    assert_eq!(left(), 976);
    drop(pacer);
    assert_eq!(left(), 1976);
    // Its turn has not come when it is dropped.
    let mut pacer = throttle.circuit(b, a);
    assert_eq!(granted(&mut pacer).await, 1024);
    pacer.spend(1024);
    let mut other = throttle.circuit(a, PeerId::random());
    let waiting = tokio::time::timeout(Duration::from_millis(1), granted(&mut other));
    assert!(waiting.await.is_err());
    drop(other);
    assert_eq!(left(), 953);
    let waits: Vec<_> = throttle.waits().collect();
    assert_eq!(
        waits,
        [(Cause::Circuit, 0), (Cause::Peer, 1), (Cause::Relay, 0)]
    );
    drop(pacer);
    assert_eq!(throttle.peers.as_ref().unwrap().len().0, 0);
}
