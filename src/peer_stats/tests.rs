use std::iter::zip;

use proptest::{collection::vec, prelude::*};

use super::{window::SLOTS, *};

/// A peer whose number is in its id.
fn peer(number: u8) -> PeerId {
    let digest = libp2p::multihash::Multihash::wrap(0, &[number; 32]);
    PeerId::from_multihash(digest.unwrap()).unwrap()
}

fn counters() -> impl Strategy<Value = PeerCounters> {
    let requests = (0..3_u64, 0..3_u64, 0..3_u64);
    (0..5000_u64, 0..5000_u64, requests).prop_map(|(sent, received, requests)| PeerCounters {
        sent,
        received,
        circuits: requests.0,
        reservations: requests.1,
        denials: requests.2,
    })
}

fn weight(counters: &PeerCounters) -> u64 {
    counters.bytes() + counters.circuits + counters.reservations + counters.denials
}

/// Estimates never exceed the true values, and differ from them by at most the error.
fn assert_within(entry: &Estimate, truth: &PeerCounters) {
    let estimated = entry.counters;
    for (estimated, truth) in [
        (estimated.sent, truth.sent),
        (estimated.received, truth.received),
        (estimated.circuits, truth.circuits),
        (estimated.reservations, truth.reservations),
        (estimated.denials, truth.denials),
    ] {
        assert!(estimated <= truth, "{entry:?} of {truth:?}");
        assert!(truth <= estimated + entry.error, "{entry:?} of {truth:?}");
    }
    assert!(weight(truth) <= weight(&estimated) + entry.error);
}

fn truths(events: &[(u8, PeerCounters)]) -> HashMap<PeerId, PeerCounters> {
    let mut truths: HashMap<_, PeerCounters> = HashMap::new();
    for (number, counters) in events {
        *truths.entry(peer(*number)).or_default() += *counters;
    }
    truths
}

proptest! {
    #[test]
    fn table_is_bounded_and_estimates_are_within_their_error(
        capacity in 1..8_usize,
        events in vec((0..16_u8, counters()), 0..200),
    ) {
        let mut table = SpaceSaving::new(capacity);
        for (number, counters) in &events {
            table.add(peer(*number), *counters);
            prop_assert!(table.snapshot().entries.len() <= capacity);
        }
        let truths = truths(&events);
        let whole: u64 = truths.values().map(weight).sum();
        let snapshot = table.snapshot();
        let (entries, missing) = merge([&snapshot].into_iter());
        prop_assert_eq!(entries.len(), snapshot.entries.len());
        for (peer, truth) in &truths {
            if let Some(entry) = entries.get(peer) {
                assert_within(entry, truth);
            } else {
                prop_assert!(weight(truth) <= missing);
                prop_assert!(weight(truth) <= whole / capacity as u64);
            }
        }
        prop_assert!(entries.keys().all(|peer| truths.contains_key(peer)));
    }

    #[test]
    fn window_covers_the_recent_time_and_drops_older_events(
        capacity in 1..8_usize,
        events in vec((0..400_u64, (0..16_u8, counters())), 1..200),
    ) {
        let length = Duration::from_secs(10);
        let begin = now();
        let mut window = Window::new(capacity, length, begin);
        let mut seconds = 0;
        let mut events_so_far = Vec::new();
        for (pause, (number, counters)) in events {
            // Mostly short pauses, with occasional long ones.
            seconds += if pause < 380 { pause / 100 } else { pause / 20 };
            window.add(begin + Duration::from_secs(seconds), peer(number), counters);
            events_so_far.push((seconds, (number, counters)));
            let snapshots = window.snapshots(begin + Duration::from_secs(seconds));
            prop_assert!(snapshots.len() <= SLOTS as usize);
            prop_assert!(snapshots.iter().all(|s| s.entries.len() <= capacity));
        }
        // A part of the oldest slot has passed already; the others are complete.
        let since = |age: u64| -> Vec<_> {
            let recent = events_so_far.iter().filter(|(at, _)| at + age > seconds);
            recent.map(|(_, event)| *event).collect()
        };
        let (most, least) = (truths(&since(10)), truths(&since(9)));
        let snapshots = window.snapshots(begin + Duration::from_secs(seconds));
        let (entries, missing) = merge(snapshots.iter().map(AsRef::as_ref));
        for (peer, entry) in &entries {
            let most = most.get(peer).copied().unwrap_or_default();
            prop_assert!(entry.counters.sent <= most.sent, "{:?} of {:?}", entry, most);
            prop_assert!(weight(&entry.counters) <= weight(&most));
        }
        for (peer, truth) in &least {
            let entry = entries.get(peer).copied().unwrap_or(Estimate {
                error: missing,
                ..Estimate::default()
            });
            prop_assert!(weight(truth) <= weight(&entry.counters) + entry.error);
        }
        let later = begin + Duration::from_secs(seconds) + length;
        let later = window.snapshots(later);
        prop_assert!(later.iter().all(|s| s.entries.is_empty() && s.missing == 0));
    }
}

#[test]
fn peers_without_traffic_do_not_evict_peers_that_move_data() {
    let peers = PeerStats::new(4, Duration::from_secs(60));
    let (source, target) = (peer(200), peer(201));
    let circuit = peers.circuit(source, target);
    circuit.add(1_000_000, 500);
    drop(circuit);
    for _ in 0..100 {
        for other in 0..200 {
            peers.denied(peer(other));
            peers.reserved(peer(other));
        }
    }
    let top = peers.rank(now(), Period::Total, 2);
    assert_eq!(top.tracked, 4);
    let expected = [(source, (1_000_000, 500)), (target, (500, 1_000_000))];
    for (row, (peer, (sent, received))) in zip(top.rows, expected) {
        assert_eq!(row.peer, peer);
        let counters = PeerCounters {
            sent,
            received,
            circuits: 1,
            ..PeerCounters::default()
        };
        let exact = Estimate { counters, error: 0 };
        assert_eq!((row.window, row.total), (exact, exact));
    }
}

#[tokio::test(start_paused = true)]
async fn open_circuit_is_swept_and_counted_once() {
    let peers = PeerStats::new(4, Duration::from_secs(60));
    let sweep = peers.clone().sweep();
    let sent = |period| {
        let top = peers.rank(now(), period, 1);
        top.rows.first().map_or(0, |row| row.total.counters.sent)
    };
    let test = async {
        let circuit = peers.circuit(peer(1), peer(2));
        circuit.add(7, 0);
        assert_eq!(sent(Period::Total), 0);
        sleep(2 * SWEEP_INTERVAL).await;
        assert_eq!(sent(Period::Total), 7);
        circuit.add(3, 0);
        let top = peers.top(Period::Window, 1).await.unwrap();
        assert_eq!(top.rows[0].window.counters.sent, 10);
        circuit.add(1, 0);
        drop(circuit);
        assert_eq!(sent(Period::Window), 11);
        assert!(peers.circuits().is_empty());
        // The total keeps it when the window has passed.
        sleep(Duration::from_secs(120)).await;
        let row = peers.rank(now(), Period::Window, 1).rows[0];
        assert_eq!(row.window, Estimate::default());
        assert_eq!(row.total.counters.sent, 11);
    };
    tokio::select! {
        () = sweep => {}
        () = test => {}
    }
}
