use std::future::poll_fn;

use super::*;

mod fair_queue;
mod fairness;
mod peer_buckets;

/// A limit of this rate in bytes per second and this burst in bytes.
fn limit(rate: u64, burst: u64) -> BandwidthLimit {
    BandwidthLimit {
        rate: Some(rate),
        burst: Some(burst),
    }
}

fn bandwidth_limiter(bandwidth: BandwidthLimits) -> Arc<BandwidthLimiter> {
    BandwidthLimiter::new(&bandwidth).unwrap()
}

/// Waits for the next grant.
async fn granted(limiter: &mut CircuitLimiter) -> u64 {
    poll_fn(|cx| limiter.poll_grant(cx)).await
}

#[test]
fn without_a_limit_there_is_no_limiter() {
    assert!(BandwidthLimiter::new(&BandwidthLimits::default()).is_none());
    let burst_alone = BandwidthLimits {
        relay: BandwidthLimit {
            rate: None,
            burst: Some(1000),
        },
        ..BandwidthLimits::default()
    };
    assert!(BandwidthLimiter::new(&burst_alone).is_none());
}

#[test]
fn quantum_follows_the_lowest_rate_and_never_exceeds_a_burst() {
    let quantum = |circuit, peer, relay| {
        let bandwidth = BandwidthLimits {
            relay,
            peer,
            circuit,
        };
        bandwidth_limiter(bandwidth).quantum
    };
    let off = BandwidthLimit::default();
    let of_rate = |rate| BandwidthLimit {
        rate: Some(rate),
        burst: None,
    };
    assert_eq!(quantum(off, off, of_rate(10_000_000)), 40_000);
    assert_eq!(quantum(off, of_rate(1_000_000), of_rate(10_000_000)), 4000);
    assert_eq!(quantum(of_rate(1000), off, off), MIN_QUANTUM);
    assert_eq!(quantum(limit(50_000, 1000), off, off), 1000);
    // Timers are not precise enough for less.
    assert_eq!(limit(1_000_000, 1000).burst(), Some(10_000));
    let most = limit(u64::MAX, u64::MAX);
    assert_eq!(quantum(most, most, most), u64::MAX / 250);
}
