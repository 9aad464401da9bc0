//! Everybody at once, for hours if asked to: who comes and goes, who stays and renews, and who does
//! wrong. After each round all have left, and the relay has to be what it was.
//!
//! ```sh
//! RELAY_TEST_SOAK=2h cargo test --release --test abuse soak -- --nocapture
//! ```

mod offenders;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use libp2p::Multiaddr;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use test_support::{
    PATIENCE,
    client::Security,
    event_audit::EventAudit,
    load::{Directory, Tally, act_and_leave, arrive},
    ordinary_clients,
    process::Relay,
    prometheus::Scrape,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// How long it takes if nobody says otherwise.
const USUALLY: Duration = Duration::from_secs(40);
const ROUNDS: u32 = 8;

/// Clients that come and go.
const ORDINARY: u64 = 24;
/// Clients that stay until the round is over.
const STAYING: u64 = 8;
const OFFENDERS: u64 = 6;
/// The most bytes that a client sends at once; some circuits come to their limit.
const MOST: usize = 1_200_000;
/// The time between two pairs of clients whose service is timed.
const BYSTANDERS_PAUSE: Duration = Duration::from_secs(5);
/// For how long the relay stands still in the middle of a round.
const FROZEN: Duration = Duration::from_secs(1);
/// What the first round may leave behind that the last one does not: tables that have grown, and
/// pages that are not quite empty.
const KEPT: usize = 16 * MIB;
const MIB: usize = 1024 * 1024;

/// Where the relay can be reached.
#[derive(Clone)]
struct Doors {
    tcp: Multiaddr,
    quic: Multiaddr,
    websocket: Multiaddr,
}

impl Doors {
    /// One of them, and what secures it if it is TCP.
    fn any(&self, rng: &mut StdRng) -> (Security, &Multiaddr) {
        match rng.random_range(0..4) {
            0 => (Security::Noise, &self.tcp),
            1 => (Security::Tls, &self.tcp),
            2 => (Security::Noise, &self.quic),
            _ => (Security::Noise, &self.websocket),
        }
    }
}

/// What the relay holds while nobody is there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Idle {
    files: usize,
    tasks: f64,
}

impl Idle {
    async fn of(relay: &Relay) -> Self {
        let scrape = Scrape::of(relay).await;
        Self {
            files: relay.open_files(),
            tasks: scrape.sum("relay_runtime_tasks", &[]).unwrap(),
        }
    }
}

/// A relay, and an audit of the events in its log.
struct Soaked {
    relay: Relay,
    audit: EventAudit,
    /// How many of its first events are not of clients.
    preface: usize,
}

impl Soaked {
    async fn start() -> Self {
        let relay = Relay::start(&[
            ("RELAY_STATS_INTERVAL", "1s"),
            ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
            ("RELAY_RESERVATION_TTL", "30s"),
            ("RELAY_MAX_CIRCUIT_BYTES", "1MB"),
            ("RELAY_MAX_CIRCUIT_DURATION", "20s"),
            ("RELAY_MAX_CIRCUITS_PER_PEER", "12"),
            ("RELAY_MAX_BANDWIDTH_PER_CIRCUIT", "4MB"),
        ])
        .await;
        Self {
            preface: relay.events.len(),
            relay,
            audit: EventAudit::default(),
        }
    }

    fn doors(&self) -> Doors {
        Doors {
            tcp: self.relay.tcp(),
            quic: self.relay.quic(),
            websocket: self.relay.websocket(),
        }
    }

    /// Reads the log until its next statistics.
    async fn next_statistics(&mut self) {
        self.relay.event("statistics").await;
        self.enter();
    }

    fn enter(&mut self) {
        let events = self.relay.events.split_off(self.preface);
        self.audit.record(&events);
    }

    /// Everybody has left: the log's account agrees with the metrics, to the byte, and nothing is
    /// open.
    async fn is_exact(&mut self) {
        self.relay.is_idle().await;
        self.enter();
        self.audit.assert_balanced();
        let scrape = Scrape::of(&self.relay).await;
        let sum = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels).unwrap_or(0.0);
        for name in ["relay_circuit_active", "relay_reservation_active"] {
            assert!(sum(name, &[]).abs() < 0.5, "{name} is {}", sum(name, &[]));
        }
        let requests = |request, outcome| {
            let labels = [("request", request), ("outcome", outcome)];
            sum("relay_hop_requests_total", &labels)
        };
        for (counted, logged) in [
            (sum("relay_circuit_io_bytes_total", &[]), self.audit.bytes),
            (
                requests("reserve", "accepted"),
                self.audit.count("reservation accepted"),
            ),
            (
                requests("connect", "accepted"),
                self.audit.count("circuit accepted"),
            ),
        ] {
            assert_eq!(counted.to_string(), logged.to_string());
        }
    }

    /// Files and tasks are as many as they were before anybody came.
    async fn is_as_before(&mut self, before: Idle) {
        let mut now = Idle::of(&self.relay).await;
        let waiting = timeout(PATIENCE, async {
            while now.files > before.files || now.tasks > before.tasks {
                self.next_statistics().await;
                now = Idle::of(&self.relay).await;
            }
        });
        let waited = waiting.await;
        assert!(waited.is_ok(), "{now:?} after {before:?}");
    }

    /// The relay stands still for a moment.
    async fn pause(&self) {
        self.relay.freeze();
        sleep(FROZEN).await;
        self.relay.thaw();
    }
}

/// Comes, talks, and goes, again and again.
async fn come_and_go(mut rng: StdRng, doors: Doors, directory: Directory, until: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let (security, address) = doors.any(&mut rng);
        let client = arrive(security, address, &directory, &mut tally).await;
        act_and_leave(client, MOST, &mut rng, address, &directory, &mut tally).await;
    }
    tally
}

/// Comes, and answers and renews until the end.
async fn stay(mut rng: StdRng, doors: Doors, directory: Directory, until: Instant) -> Tally {
    let mut tally = Tally::default();
    let (security, address) = doors.any(&mut rng);
    let mut client = arrive(security, address, &directory, &mut tally).await;
    client.run_until(sleep_until(until)).await;
    directory.lock().unwrap().retain(|id| *id != client.peer_id);
    tally
}

/// Times how ordinary clients are served meanwhile.
async fn time(doors: Doors, times: Arc<Mutex<Vec<Duration>>>, until: Instant) -> Tally {
    while Instant::now() < until {
        for address in [&doors.tcp, &doors.quic] {
            let took = ordinary_clients::time_to_serve(address).await;
            times.lock().unwrap().push(took);
        }
        sleep(BYSTANDERS_PAUSE).await;
    }
    Tally::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_load() {
    let total = std::env::var("RELAY_TEST_SOAK").map_or(USUALLY, |set| {
        humantime::parse_duration(&set).expect("RELAY_TEST_SOAK is a duration, such as 2h")
    });
    let mut soaked = Soaked::start().await;
    let doors = soaked.doors();
    ordinary_clients::assert_served(&doors.tcp).await;
    ordinary_clients::assert_served(&doors.quic).await;
    soaked.is_exact().await;
    let before = Idle::of(&soaked.relay).await;

    let mut rng = StdRng::seed_from_u64(8);
    let mut first = None;
    println!(
        "| round | MiB at most, at rest | tasks, files at rest | reservations | renewals | circuits | MB | came back whole | slowest pair |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for round in 1..=ROUNDS {
        let until = Instant::now() + total / ROUNDS;
        let (directory, times) = (Directory::default(), Arc::default());
        let mut everybody = JoinSet::new();
        for _ in 0..ORDINARY {
            let (rng, doors, directory) = (rng.fork(), doors.clone(), Arc::clone(&directory));
            everybody.spawn(come_and_go(rng, doors, directory, until));
        }
        for _ in 0..STAYING {
            let (rng, doors, directory) = (rng.fork(), doors.clone(), Arc::clone(&directory));
            everybody.spawn(stay(rng, doors, directory, until));
        }
        for _ in 0..OFFENDERS {
            everybody.spawn(offenders::offend(rng.fork(), doors.clone(), until));
        }
        everybody.spawn(time(doors.clone(), Arc::clone(&times), until));

        let mut most = 0;
        let mut pause = Some(Instant::now() + total / ROUNDS / 2);
        while Instant::now() < until {
            soaked.next_statistics().await;
            most = most.max(soaked.relay.used_bytes());
            if pause.is_some_and(|pause| pause <= Instant::now()) {
                soaked.pause().await;
                pause = None;
            }
        }
        let mut tally = Tally::default();
        while let Some(one) = everybody.join_next().await {
            tally += one.unwrap();
        }
        soaked.is_exact().await;
        soaked.is_as_before(before).await;

        let resident = soaked.relay.used_bytes();
        let first = *first.get_or_insert(resident);
        assert!(resident <= first + KEPT, "{first} bytes, then {resident}");
        assert!(tally.exchanged > 0 && tally.connected > 0, "{tally:?}");
        let audit = &soaked.audit;
        let now = Idle::of(&soaked.relay).await;
        println!(
            "| {round} | {}, {} | {}, {} | {} | {} | {} | {} | {} of {} | {:?} |",
            most / MIB,
            resident / MIB,
            now.tasks,
            now.files,
            audit.count("reservation accepted"),
            audit.count("reservation renewed"),
            audit.count("circuit accepted"),
            audit.bytes / 1_000_000,
            tally.exchanged,
            tally.connected,
            times.lock().unwrap().iter().max(),
        );
    }
    soaked.relay.stop().await;
}
