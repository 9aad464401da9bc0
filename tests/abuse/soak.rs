//! Soak test: short-lived clients, long-lived clients that renew, and misbehaving clients at the same
//! time, in rounds. Expected: after each round, metrics and log events agree, and memory, files and tasks
//! are back at their initial level.
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
    load::{Directory, Tally, connect_and_reserve, exchange_and_disconnect},
    ordinary_clients,
    process::Relay,
    prometheus::Scrape,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Total duration unless `RELAY_TEST_SOAK` is set.
const DEFAULT_DURATION: Duration = Duration::from_secs(40);
const ROUNDS: u32 = 8;

/// Number of short-lived clients.
const SHORT_LIVED: u64 = 24;
/// Number of clients that stay connected for a whole round.
const LONG_LIVED: u64 = 8;
const MISBEHAVING: u64 = 6;
/// Upper bound of a client's transfer, in bytes. Some circuits reach their byte limit.
const MAX_TRANSFER: usize = 1_200_000;
/// Interval between two measurements of the latency for ordinary clients.
const LATENCY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the relay process is stopped in the middle of a round.
const STOP_DURATION: Duration = Duration::from_secs(1);
/// Memory growth that is allowed between the first round and a later one, in bytes: hash maps that have
/// grown, and fragmented pages.
const MAX_GROWTH: usize = 16 * MIB;
const MIB: usize = 1024 * 1024;

/// The relay's listen addresses, by transport.
#[derive(Clone)]
struct RelayAddresses {
    tcp: Multiaddr,
    quic: Multiaddr,
    websocket: Multiaddr,
}

impl RelayAddresses {
    /// A random address, and the security protocol to use over TCP.
    fn any(&self, rng: &mut StdRng) -> (Security, &Multiaddr) {
        match rng.random_range(0..4) {
            0 => (Security::Noise, &self.tcp),
            1 => (Security::Tls, &self.tcp),
            2 => (Security::Noise, &self.quic),
            _ => (Security::Noise, &self.websocket),
        }
    }
}

/// Resources of a relay without connections.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Resources {
    files: usize,
    tasks: f64,
}

impl Resources {
    async fn of(relay: &Relay) -> Self {
        let scrape = Scrape::of(relay).await;
        Self {
            files: relay.open_files(),
            tasks: scrape.sum("relay_runtime_tasks", &[]).unwrap(),
        }
    }
}

/// A relay, and an audit of the events in its log.
struct SoakedRelay {
    relay: Relay,
    audit: EventAudit,
    /// Number of log events before the first client event.
    startup_events: usize,
}

impl SoakedRelay {
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
            startup_events: relay.events.len(),
            relay,
            audit: EventAudit::default(),
        }
    }

    fn addresses(&self) -> RelayAddresses {
        RelayAddresses {
            tcp: self.relay.tcp(),
            quic: self.relay.quic(),
            websocket: self.relay.websocket(),
        }
    }

    /// Reads the log until its next statistics.
    async fn next_statistics(&mut self) {
        self.relay.event("statistics").await;
        self.record();
    }

    fn record(&mut self) {
        let events = self.relay.events.split_off(self.startup_events);
        self.audit.record(&events);
    }

    /// Asserts, after all clients have disconnected, that the log events agree with the metrics to the
    /// byte, and that no circuit or reservation is active.
    async fn assert_metrics_match_log(&mut self) {
        self.relay.wait_until_idle().await;
        self.record();
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

    /// Asserts that the numbers of files and tasks are those before the load.
    async fn assert_resources_released(&mut self, before: Resources) {
        let mut now = Resources::of(&self.relay).await;
        let waiting = timeout(PATIENCE, async {
            while now.files > before.files || now.tasks > before.tasks {
                self.next_statistics().await;
                now = Resources::of(&self.relay).await;
            }
        });
        let waited = waiting.await;
        assert!(waited.is_ok(), "{now:?} after {before:?}");
    }

    /// Stops the relay process for a short time.
    async fn pause(&self) {
        self.relay.suspend();
        sleep(STOP_DURATION).await;
        self.relay.resume();
    }
}

/// Connects, exchanges data and disconnects, repeatedly.
async fn run_short_lived(
    mut rng: StdRng,
    addresses: RelayAddresses,
    directory: Directory,
    until: Instant,
) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let (security, address) = addresses.any(&mut rng);
        let client = connect_and_reserve(security, address, &directory, &mut tally).await;
        exchange_and_disconnect(
            client,
            MAX_TRANSFER,
            &mut rng,
            address,
            &directory,
            &mut tally,
        )
        .await;
    }
    tally
}

/// Stays connected, serves circuits and renews until the deadline.
async fn run_long_lived(
    mut rng: StdRng,
    addresses: RelayAddresses,
    directory: Directory,
    until: Instant,
) -> Tally {
    let mut tally = Tally::default();
    let (security, address) = addresses.any(&mut rng);
    let mut client = connect_and_reserve(security, address, &directory, &mut tally).await;
    client.run_until(sleep_until(until)).await;
    directory.lock().unwrap().retain(|id| *id != client.peer_id);
    tally
}

/// Measures the latency for ordinary clients during the load.
async fn measure_latency(
    addresses: RelayAddresses,
    times: Arc<Mutex<Vec<Duration>>>,
    until: Instant,
) -> Tally {
    while Instant::now() < until {
        for address in [&addresses.tcp, &addresses.quic] {
            let took = ordinary_clients::time_to_serve(address).await;
            times.lock().unwrap().push(took);
        }
        sleep(LATENCY_INTERVAL).await;
    }
    Tally::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_load() {
    let total = std::env::var("RELAY_TEST_SOAK").map_or(DEFAULT_DURATION, |set| {
        humantime::parse_duration(&set).expect("RELAY_TEST_SOAK is a duration, such as 2h")
    });
    let mut soaked = SoakedRelay::start().await;
    let addresses = soaked.addresses();
    ordinary_clients::assert_served(&addresses.tcp).await;
    ordinary_clients::assert_served(&addresses.quic).await;
    soaked.assert_metrics_match_log().await;
    let before = Resources::of(&soaked.relay).await;

    let mut rng = StdRng::seed_from_u64(8);
    let mut first = None;
    println!(
        "| round | peak, idle MiB | idle tasks, files | reservations | renewals | circuits | MB | transfers verified | slowest pair |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for round in 1..=ROUNDS {
        let until = Instant::now() + total / ROUNDS;
        let (directory, times) = (Directory::default(), Arc::default());
        let mut clients = JoinSet::new();
        for _ in 0..SHORT_LIVED {
            let (rng, addresses, directory) =
                (rng.fork(), addresses.clone(), Arc::clone(&directory));
            clients.spawn(run_short_lived(rng, addresses, directory, until));
        }
        for _ in 0..LONG_LIVED {
            let (rng, addresses, directory) =
                (rng.fork(), addresses.clone(), Arc::clone(&directory));
            clients.spawn(run_long_lived(rng, addresses, directory, until));
        }
        for _ in 0..MISBEHAVING {
            clients.spawn(offenders::misbehave(rng.fork(), addresses.clone(), until));
        }
        clients.spawn(measure_latency(
            addresses.clone(),
            Arc::clone(&times),
            until,
        ));

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
        while let Some(one) = clients.join_next().await {
            tally += one.unwrap();
        }
        soaked.assert_metrics_match_log().await;
        soaked.assert_resources_released(before).await;

        let resident = soaked.relay.used_bytes();
        let first = *first.get_or_insert(resident);
        assert!(
            resident <= first + MAX_GROWTH,
            "{first} bytes, then {resident}"
        );
        assert!(tally.exchanged > 0 && tally.connected > 0, "{tally:?}");
        let audit = &soaked.audit;
        let now = Resources::of(&soaked.relay).await;
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
