//! Circuits that compete for bandwidth.

use std::{sync::atomic::AtomicUsize, time::Duration};

use proptest::prelude::*;
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, sleep, sleep_until},
};

use super::*;

/// A circuit that always has data to read.
#[derive(Clone, Copy, Debug)]
struct BusyCircuit {
    /// Start in milliseconds.
    after: u64,
    /// Bytes of one read.
    piece: u64,
}

impl BusyCircuit {
    async fn run(self, shared: Arc<BandwidthLimiter>, peers: [PeerId; 2], used: Arc<AtomicU64>) {
        sleep(Duration::from_millis(self.after)).await;
        let mut limiter = shared.circuit(peers[0], peers[1]);
        loop {
            let bytes = granted(&mut limiter).await.min(self.piece);
            limiter.consume(bytes);
            used.fetch_add(bytes, Ordering::Relaxed);
            yield_now().await;
        }
    }
}

/// Bytes that each circuit gets after all have started and the burst is used up.
fn shares(bandwidth: BandwidthLimits, circuits: &[BusyCircuit], seconds: u64) -> Vec<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (shared, source) = (bandwidth_limiter(bandwidth), PeerId::random());
        let mut tasks = JoinSet::new();
        let mut counts = Vec::new();
        let start = Instant::now() + Duration::from_secs(1);
        for circuit in circuits {
            let used = Arc::new(AtomicU64::new(0));
            counts.push(used.clone());
            let peers = [source, PeerId::random()];
            tasks.spawn(circuit.run(shared.clone(), peers, used));
        }
        let read = || -> Vec<u64> { counts.iter().map(|n| n.load(Ordering::Relaxed)).collect() };
        sleep_until(start).await;
        let before = read();
        sleep_until(start + Duration::from_secs(seconds)).await;
        zip(read(), before)
            .map(|(after, before)| after - before)
            .collect()
    })
}

fn busy_circuit() -> impl Strategy<Value = BusyCircuit> {
    (0..500u64, 1..40_000u64).prop_map(|(after, piece)| BusyCircuit { after, piece })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn busy_circuits_get_equal_bandwidth_within_a_quantum(
        rate in prop::sample::select(vec![50_000, 1_000_000, 20_000_000u64]),
        circuits in prop::collection::vec(busy_circuit(), 1..8),
        limits_the_peer in any::<bool>(),
    ) {
        let (limit, free) = (limit(rate, rate / 10), BandwidthLimit::default());
        let bandwidth = if limits_the_peer {
            BandwidthLimits { peer: limit, relay: free, circuit: free }
        } else {
            BandwidthLimits { peer: free, relay: limit, circuit: free }
        };
        // Small reads of a large quantum would make the test slow.
        let circuits: Vec<_> = circuits
            .iter()
            .map(|c| BusyCircuit { piece: c.piece.max(rate / 20_000), ..*c })
            .collect();
        let quantum = bandwidth_limiter(bandwidth).quantum;
        let shares = shares(bandwidth, &circuits, 5);
        let (least, most) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
        // One circuit may be in the middle of its quantum, and another one at its end.
        prop_assert!(most - least <= 2 * quantum, "{shares:?} of {quantum}");
        let (total, possible) = (shares.iter().sum::<u64>(), 5 * rate);
        let slack = quantum * (shares.len() as u64 + 1);
        prop_assert!(total <= possible + slack && total + slack >= possible, "{total} of {possible}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_circuit_waits_for_one_quantum_of_each_busy_one() {
    const BUSY: u32 = 20;
    let shared = bandwidth_limiter(BandwidthLimits {
        relay: limit(1_000_000, 100_000),
        ..BandwidthLimits::default()
    });
    let mut tasks = JoinSet::new();
    for _ in 0..BUSY {
        let circuit = BusyCircuit {
            after: 0,
            piece: u64::MAX,
        };
        let peers = [PeerId::random(), PeerId::random()];
        tasks.spawn(circuit.run(shared.clone(), peers, Arc::default()));
    }
    sleep(Duration::from_secs(1)).await;
    let mut quiet = shared.circuit(PeerId::random(), PeerId::random());
    for _ in 0..10 {
        let asked = Instant::now();
        granted(&mut quiet).await;
        quiet.consume(10);
        quiet.release();
        let waited = asked.elapsed();
        // Timers are up to a millisecond late.
        let most = QUANTUM_DURATION * (BUSY + 1) + Duration::from_millis(2);
        assert!(waited <= most, "{waited:?}");
        sleep(Duration::from_millis(77)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn bandwidth_unused_by_a_limited_peer_goes_to_others() {
    // Two of three circuits share a peer whose limit is the lower one.
    let shared = bandwidth_limiter(BandwidthLimits {
        relay: limit(1_000_000, 100_000),
        peer: limit(700_000, 100_000),
        circuit: BandwidthLimit::default(),
    });
    let slow_peer = PeerId::random();
    let mut tasks = JoinSet::new();
    let counts: [Arc<AtomicU64>; 3] = Default::default();
    let sources = [slow_peer, slow_peer, PeerId::random()];
    for (source, count) in zip(sources, &counts) {
        let circuit = BusyCircuit {
            after: 0,
            piece: u64::MAX,
        };
        tasks.spawn(circuit.run(shared.clone(), [source, PeerId::random()], count.clone()));
    }
    sleep(Duration::from_secs(20)).await;
    let total: u64 = counts.iter().map(|n| n.load(Ordering::Relaxed)).sum();
    assert!(total >= 19_900_000, "{counts:?}");
    for count in &counts {
        let bytes = count.load(Ordering::Relaxed);
        assert!((6_500_000..=6_900_000).contains(&bytes), "{counts:?}");
    }
}

/// Waiting circuits are woken only for their turn.
#[tokio::test(start_paused = true)]
async fn waiting_circuits_are_not_polled() {
    let shared = bandwidth_limiter(BandwidthLimits {
        circuit: limit(1000, 1000),
        ..BandwidthLimits::default()
    });
    let mut limiter = shared.circuit(PeerId::random(), PeerId::random());
    let polls = AtomicUsize::new(0);
    let begun = Instant::now();
    for _ in 0..10 {
        let bytes = poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            limiter.poll_grant(cx)
        })
        .await;
        limiter.consume(bytes);
    }
    let took = begun.elapsed();
    assert!((9.0..9.1).contains(&took.as_secs_f64()), "{took:?}");
    // One poll to start a wait, and one when it is over.
    assert!(polls.into_inner() <= 19);
}
