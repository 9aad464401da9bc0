use std::future::poll_fn;

use super::*;

mod bucket;
mod peers;
mod sharing;

/// So many bytes a second, and so many at once.
fn pace(rate: u64, burst: u64) -> Pace {
    Pace {
        rate: Some(rate),
        burst: Some(burst),
    }
}

fn throttle(bandwidth: Bandwidth) -> Arc<Throttle> {
    Throttle::new(&bandwidth).unwrap()
}

/// Waits for the next grant.
async fn granted(pacer: &mut Pacer) -> u64 {
    poll_fn(|cx| pacer.poll_grant(cx)).await
}

#[test]
fn without_a_limit_there_is_nothing() {
    assert!(Throttle::new(&Bandwidth::default()).is_none());
    let burst_alone = Bandwidth {
        relay: Pace {
            rate: None,
            burst: Some(1000),
        },
        ..Bandwidth::default()
    };
    assert!(Throttle::new(&burst_alone).is_none());
}

#[test]
fn a_quantum_is_a_turn_of_the_slowest_and_fits_into_every_burst() {
    let quantum = |circuit, peer, relay| {
        let bandwidth = Bandwidth {
            relay,
            peer,
            circuit,
        };
        throttle(bandwidth).quantum
    };
    let off = Pace::default();
    let of_rate = |rate| Pace {
        rate: Some(rate),
        burst: None,
    };
    assert_eq!(quantum(off, off, of_rate(10_000_000)), 40_000);
    assert_eq!(quantum(off, of_rate(1_000_000), of_rate(10_000_000)), 4000);
    assert_eq!(quantum(of_rate(1000), off, off), MIN_QUANTUM);
    assert_eq!(quantum(pace(50_000, 1000), off, off), 1000);
    // Timers are not exact enough for less.
    assert_eq!(pace(1_000_000, 1000).burst(), Some(10_000));
    let most = pace(u64::MAX, u64::MAX);
    assert_eq!(quantum(most, most, most), u64::MAX / 250);
}
