use std::iter::zip;

use proptest::{collection::vec, prelude::*};

use super::{window::SLOTS, *};

/// A peer whose number is in its id.
fn peer(number: u8) -> PeerId {
    let digest = libp2p::multihash::Multihash::wrap(0, &[number; 32]);
    PeerId::from_multihash(digest.unwrap()).unwrap()
}

fn figures() -> impl Strategy<Value = Figures> {
    let requests = (0..3_u64, 0..3_u64, 0..3_u64);
    (0..5000_u64, 0..5000_u64, requests).prop_map(|(sent, received, requests)| Figures {
        sent,
        received,
        circuits: requests.0,
        reservations: requests.1,
        denials: requests.2,
    })
}

fn weight(figures: &Figures) -> u64 {
    figures.bytes() + figures.circuits + figures.reservations + figures.denials
}

/// No figure says more than is true, and what is true is within the error.
fn assert_within(entry: &Entry, truth: &Figures) {
    let said = entry.figures;
    for (said, truth) in [
        (said.sent, truth.sent),
        (said.received, truth.received),
        (said.circuits, truth.circuits),
        (said.reservations, truth.reservations),
        (said.denials, truth.denials),
    ] {
        assert!(said <= truth, "{entry:?} of {truth:?}");
        assert!(truth <= said + entry.error, "{entry:?} of {truth:?}");
    }
    assert!(weight(truth) <= weight(&said) + entry.error);
}

fn truths(events: &[(u8, Figures)]) -> HashMap<PeerId, Figures> {
    let mut truths: HashMap<_, Figures> = HashMap::new();
    for (number, figures) in events {
        *truths.entry(peer(*number)).or_default() += *figures;
    }
    truths
}

proptest! {
    #[test]
    fn a_table_is_bounded_and_never_wrong(
        capacity in 1..8_usize,
        events in vec((0..16_u8, figures()), 0..200),
    ) {
        let mut table = Table::new(capacity);
        for (number, figures) in &events {
            table.add(peer(*number), *figures);
            prop_assert!(table.snapshot().entries.len() <= capacity);
        }
        let truths = truths(&events);
        let whole: u64 = truths.values().map(weight).sum();
        let snapshot = table.snapshot();
        let (entries, missing) = merged([&snapshot].into_iter());
        prop_assert_eq!(entries.len(), snapshot.entries.len());
        for (peer, truth) in &truths {
            match entries.get(peer) {
                Some(entry) => assert_within(entry, truth),
                None => {
                    prop_assert!(weight(truth) <= missing);
                    prop_assert!(weight(truth) <= whole / capacity as u64);
                }
            }
        }
        prop_assert!(entries.keys().all(|peer| truths.contains_key(peer)));
    }

    #[test]
    fn a_window_knows_the_last_while_and_forgets_what_was_before(
        capacity in 1..8_usize,
        events in vec((0..400_u64, (0..16_u8, figures())), 1..200),
    ) {
        let length = Duration::from_secs(10);
        let begin = now();
        let mut window = Window::new(capacity, length, begin);
        let mut seconds = 0;
        let mut told = Vec::new();
        for (pause, (number, figures)) in events {
            // Mostly short pauses, and now and then a long one.
            seconds += if pause < 380 { pause / 100 } else { pause / 20 };
            window.add(begin + Duration::from_secs(seconds), peer(number), figures);
            told.push((seconds, (number, figures)));
            let snapshots = window.snapshots(begin + Duration::from_secs(seconds));
            prop_assert!(snapshots.len() <= SLOTS as usize);
            prop_assert!(snapshots.iter().all(|s| s.entries.len() <= capacity));
        }
        // Some of the oldest step is over already, the others are there as a whole.
        let since = |age: u64| -> Vec<_> {
            let recent = told.iter().filter(|(at, _)| at + age > seconds);
            recent.map(|(_, event)| *event).collect()
        };
        let (most, least) = (truths(&since(10)), truths(&since(9)));
        let snapshots = window.snapshots(begin + Duration::from_secs(seconds));
        let (entries, missing) = merged(snapshots.iter().map(AsRef::as_ref));
        for (peer, entry) in &entries {
            let most = most.get(peer).copied().unwrap_or_default();
            prop_assert!(entry.figures.sent <= most.sent, "{:?} of {:?}", entry, most);
            prop_assert!(weight(&entry.figures) <= weight(&most));
        }
        for (peer, truth) in &least {
            let entry = entries.get(peer).copied().unwrap_or(Entry {
                error: missing,
                ..Entry::default()
            });
            prop_assert!(weight(truth) <= weight(&entry.figures) + entry.error);
        }
        let later = begin + Duration::from_secs(seconds) + length;
        let later = window.snapshots(later);
        prop_assert!(later.iter().all(|s| s.entries.is_empty() && s.missing == 0));
    }
}

#[test]
fn a_crowd_without_bytes_does_not_push_out_whoever_moves_data() {
    let peers = Peers::new(4, Duration::from_secs(60));
    let (source, target) = (peer(200), peer(201));
    let circuit = peers.circuit(source, target);
    circuit.carried(1_000_000, 500);
    drop(circuit);
    for _ in 0..100 {
        for stranger in 0..200 {
            peers.denied(peer(stranger));
            peers.reserved(peer(stranger));
        }
    }
    let top = peers.rank(now(), Period::Total, 2);
    assert_eq!(top.tracked, 4);
    let expected = [(source, (1_000_000, 500)), (target, (500, 1_000_000))];
    for (line, (peer, (sent, received))) in zip(top.lines, expected) {
        assert_eq!(line.peer, peer);
        let figures = Figures {
            sent,
            received,
            circuits: 1,
            ..Figures::default()
        };
        let exact = Entry { figures, error: 0 };
        assert_eq!((line.window, line.total), (exact, exact));
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_swept_and_counted_once() {
    let peers = Peers::new(4, Duration::from_secs(60));
    let sweep = peers.clone().sweep();
    let sent = |period| {
        let top = peers.rank(now(), period, 1);
        top.lines.first().map_or(0, |line| line.total.figures.sent)
    };
    let test = async {
        let circuit = peers.circuit(peer(1), peer(2));
        circuit.carried(7, 0);
        assert_eq!(sent(Period::Total), 0);
        sleep(2 * SWEEP_INTERVAL).await;
        assert_eq!(sent(Period::Total), 7);
        circuit.carried(3, 0);
        let top = peers.top(Period::Window, 1).await.unwrap();
        assert_eq!(top.lines[0].window.figures.sent, 10);
        circuit.carried(1, 0);
        drop(circuit);
        assert_eq!(sent(Period::Window), 11);
        assert!(peers.circuits().is_empty());
        // Long after, the total still has it.
        sleep(Duration::from_secs(120)).await;
        let line = peers.rank(now(), Period::Window, 1).lines[0];
        assert_eq!(line.window, Entry::default());
        assert_eq!(line.total.figures.sent, 11);
    };
    tokio::select! {
        () = sweep => {}
        () = test => {}
    }
}
