//! Denial-of-service tests: attackers with one or more addresses, and their effect on ordinary clients.
//!
//! The relay, the attackers and the ordinary clients run as processes in separate network namespaces. The
//! relay has the default limits, and detects the memory limit of its control group. The attackers may use
//! half of the processors. The tests need root on Linux and the tools `ip`, `ss`, `nft` and `nsenter`.
//!
//! Expected under every attack: ordinary requests succeed in time, memory stays within the limit,
//! `/livez` responds, and resources are released soon after the attack.
//!
//! A few short attacks run as part of `cargo test`; `.ci/long` runs the others.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod attackers;
mod network;
mod ordinary;
mod role;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use test_support::{
    process::{Relay, is},
    tools,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use self::{
    attackers::{Attack, Attacker, SETUP},
    network::{Addresses, ControlGroup, Network, Process, Sources},
    ordinary::{Ordinary, Request, requests},
    role::Role,
};

const MIB: u64 = 1024 * 1024;
/// How long ordinary clients are observed before and after an attack.
const OBSERVATION: Duration = Duration::from_secs(4);
/// Time limit for an ordinary request. On a slow machine, it is at least `SLOWER` times the slowest
/// request without an attack.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const SLOWER: u64 = 4;
/// Share of the requests that must succeed within the limit, in thousandths.
const SERVED: usize = 995;
/// Time limit for the release of all resources after an attack: 10 s, and time to measure.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(12);
/// Time limit for `/livez`. Orchestrators allow a few seconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Numbers of ordinary peers with a reservation, and of clients that send requests.
const RESERVED: usize = 8;
const CALLERS: usize = 3;
/// Source addresses of ordinary clients.
const CLIENTS: Sources = Sources::Ipv4(40);

/// Serializes these tests.
static SERIAL: Mutex<()> = Mutex::const_new(());

/// An attack and its setup.
#[derive(Clone, Copy, Debug)]
struct Case {
    attack: Attack,
    from: Sources,
    /// Memory limit of the relay's control group, in MiB.
    memory: u64,
    /// Duration, in seconds.
    lasts: u64,
    ordinary: Load,
}

/// The ordinary clients of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// A few clients at many addresses. All their requests have to succeed.
    ManyAddresses,
    /// 200 clients at one address. They have to keep their reservations and circuits.
    OneAddress,
}

impl Case {
    const fn new(attack: Attack, from: Sources, memory: u64) -> Self {
        Self {
            attack,
            from,
            memory,
            lasts: 30,
            ordinary: Load::ManyAddresses,
        }
    }

    const fn lasts(mut self, seconds: u64) -> Self {
        self.lasts = seconds;
        self
    }

    const fn at_one_address(mut self) -> Self {
        self.ordinary = Load::OneAddress;
        self
    }

    /// Whether new clients have to be served: the attackers have too few addresses to use up all capacity
    /// within the limits for each address.
    fn serves_all(self) -> bool {
        let are_few = match self.from {
            Sources::Ipv4(count) => count < 100,
            Sources::Network(_) | Sources::Prefix60 | Sources::Prefix48 => true,
        };
        self.ordinary == Load::ManyAddresses && are_few
    }
}

macro_rules! cases {
    ($($(#[$attribute:meta])* $name:ident: $case:expr,)*) => {$(
        $(#[$attribute])*
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            run(stringify!($name), $case).await;
        }
    )*};
}

/// The short tests, which `.ci/run` runs.
mod short {
    use super::{Attack::*, Case, Sources::*, run};

    cases! {
        memory_stays_within_64_mib_under_unread_quic_circuits:
            Case::new(UnreadOverQuic, Ipv4(1), 64).lasts(15),
        memory_stays_within_64_mib_under_unread_tcp_circuits:
            Case::new(UnreadOverTcp, Ipv4(1), 64).lasts(15),
        circuits_of_ten_addresses_leave_others_theirs:
            Case::new(Circuits, Ipv4(10), 512).lasts(12),
        pending_handshakes_of_one_address_leave_others_theirs_in_64_mib:
            Case::new(TcpHandshakes, Ipv4(1), 64).lasts(12),
        websocket_frames_of_one_address_leave_others_theirs_in_64_mib:
            Case::new(WebsocketFrames, Ipv4(1), 64).lasts(12),
        probes_are_answered_when_admin_connections_do_not_read:
            Case::new(AdminRequests, Ipv4(1), 64).lasts(12),
        segmentation_offload_survives_unanswerable_packets:
            Case::new(UnanswerablePackets, Ipv4(1), 512).lasts(8),
    }
}

macro_rules! long {
    ($part:ident, $memory:literal, $($name:ident: $attack:ident, $from:expr $(, $more:ident($($argument:expr)?))*;)*) => {
        mod $part {
            use super::{Attack::*, Case, Sources::*, run};

            cases! {$(
                #[ignore = "a part of .ci/long"]
                $name: Case::new($attack, $from, $memory)$(.$more($($argument)?))*,
            )*}
        }
    };
}

macro_rules! parts {
    ($($part:ident: $memory:literal;)*) => {$(
        long! {
            $part, $memory,
            unread_quic_circuits_of_one_address: UnreadOverQuic, Ipv4(1);
            unread_quic_circuits_of_ten_addresses: UnreadOverQuic, Ipv4(10);
            unacknowledged_quic_data_of_one_address: UnacknowledgedOverQuic, Ipv4(1);
            unread_tcp_circuits_of_one_address: UnreadOverTcp, Ipv4(1);
            unread_tcp_circuits_of_ten_addresses: UnreadOverTcp, Ipv4(10);
            unread_websocket_circuits_of_one_address: UnreadOverWebsocket, Ipv4(1);
            circuits_of_one_address: Circuits, Ipv4(1), lasts(20);
            circuits_of_one_network: Circuits, Network(10), lasts(20);
            circuits_of_ten_addresses: Circuits, Ipv4(10), lasts(20);
            circuits_of_100_addresses: Circuits, Ipv4(100), lasts(20);
            circuits_to_ordinary_targets: CircuitsToTargets, Ipv4(1), lasts(20);
            connections_of_one_address: Connections, Ipv4(1), lasts(60);
            connections_of_ten_addresses: Connections, Ipv4(10), lasts(40);
            connections_of_100_addresses: Connections, Ipv4(100), lasts(40);
            websocket_frames_of_one_address: WebsocketFrames, Ipv4(1), lasts(20);
            websocket_frames_of_ten_addresses: WebsocketFrames, Ipv4(10), lasts(20);
            tcp_handshakes_of_one_address: TcpHandshakes, Ipv4(1), lasts(20);
            tcp_handshakes_of_ten_addresses: TcpHandshakes, Ipv4(10), lasts(20);
            tcp_handshakes_of_100_addresses: TcpHandshakes, Ipv4(100), lasts(20);
            quic_handshakes_of_ten_addresses: QuicHandshakes, Ipv4(10), lasts(20);
            reservations_of_an_ipv6_60: Reservations, Prefix60;
            reservations_of_an_ipv6_48: Reservations, Prefix48;
            renewals_of_one_address: Renewals, Ipv4(1), lasts(20);
            admin_requests: AdminRequests, Ipv4(1), lasts(60);
            unanswerable_packets: UnanswerablePackets, Ipv4(1), lasts(10);
            dead_connections_of_a_target: DeadConnections, Ipv4(1);
            clients_behind_one_address_lose_nothing_to_circuits_of_100: Circuits, Ipv4(100), at_one_address();
            clients_behind_one_address_lose_nothing_to_connections_of_100: Connections, Ipv4(100), at_one_address();
        }
    )*};
}

parts! {
    dos_512: 512;
    dos_64: 64;
}

/// The entry point of the other processes of these tests.
#[test]
fn has_a_role() {
    role::run_from_environment();
}

/// The processes of a test.
struct Testbed {
    relay: Relay,
    limits: Arc<ControlGroup>,
    observer: Process,
    clients: Process,
    targets: Vec<String>,
    addresses: Addresses,
    attackers_group: ControlGroup,
    // Dropped after the processes that use it.
    network: Network,
}

impl Testbed {
    /// Starts the relay and the ordinary clients.
    async fn set_up(case: &Case) -> Result<Self, String> {
        let at = match case.ordinary {
            Load::ManyAddresses => CLIENTS,
            Load::OneAddress => Sources::Ipv4(1),
        };
        let network = Network::new(case.from, at)?;
        let limits = ControlGroup::new("r", Some(case.memory * MIB), None)?;
        let attackers_group = ControlGroup::new("a", None, Some(0.5))?;
        if case.attack == Attack::UnreadOverTcp {
            network
                .attackers
                .set("net.ipv4.tcp_rmem", "4096 4096 8192")?;
        }
        let binary = env!("CARGO_BIN_EXE_descord-relay");
        let mut command = network::command(&network.relay, &[&limits], binary);
        let listen = Addresses::listen();
        command.env_clear().envs([
            ("RELAY_LISTEN_ADDRESSES", listen.as_str()),
            ("RELAY_ADMIN_ADDRESS", "0.0.0.0:8080"),
            // Tests compare peer ids in the log.
            ("RELAY_PEER_IDS", "full"),
            ("RELAY_STATS_INTERVAL", "5s"),
            // The default limit, which other tests switch off.
            ("RELAY_MAX_RESERVATIONS_PER_IP", "64"),
            ("RELAY_RATE_CONNECTIONS_PER_IP", "500+20/s"),
            ("RELAY_RATE_RESERVATIONS_PER_IP", "500+10/s"),
            ("RELAY_RATE_CIRCUITS_PER_IP", "1000+20/s"),
        ]);
        let relay = Relay::start_as(command.into()).await;
        let addresses = Addresses::of(relay.peer_id);
        let observer = Role::Observer(addresses.clone()).start(&network.clients, &[]);
        let mut used = addresses.clone();
        if case.attack == Attack::UnanswerablePackets {
            // This case measures QUIC.
            used.tcp = used.quic.clone();
            used.websocket = used.quic.clone();
        }
        let ordinary = match case.ordinary {
            Load::ManyAddresses => Ordinary {
                addresses: used,
                reserved: RESERVED,
                callers: CALLERS,
                kept: 0,
            },
            Load::OneAddress => Ordinary {
                addresses: used,
                reserved: 60,
                callers: 0,
                kept: 140,
            },
        };
        let mut clients = Role::Ordinary(ordinary).start(&network.clients, &[]);
        let ready = clients.event("ready").await;
        Ok(Self {
            relay,
            limits: Arc::new(limits),
            observer,
            clients,
            targets: serde_json::from_value(ready["targets"].clone()).unwrap(),
            addresses,
            attackers_group,
            network,
        })
    }

    /// The requests of ordinary clients since the last call.
    async fn requests(&mut self) -> Vec<Request> {
        self.clients.send("report").await;
        requests(&self.clients.event("report").await)
    }

    /// The relay's response to a request for this path; null without a response.
    async fn get(&mut self, path: &str) -> Value {
        self.observer.send(path).await;
        self.observer.event("answer").await["answer"].take()
    }

    /// The resources in use at the relay.
    async fn resources(&mut self) -> Resources {
        let status = self.get("/status").await;
        let metrics = self.get("/metrics").await;
        let metric = |name: &str| metrics[name].as_f64().map(whole);
        Resources {
            peers: status["peers"].as_u64(),
            reservations: status["reservations"]["active"].as_u64(),
            circuits: status["circuits"]["active"].as_u64(),
            files: status["file_descriptors"]["used"].as_u64(),
            connections: metric("relay_connection_active"),
            pending: metric("relay_connection_pending"),
        }
    }

    fn is_alive(&self) -> bool {
        self.limits.killed() == 0
            && std::path::Path::new(&format!("/proc/{}", self.relay.id())).exists()
    }

    /// The number of datagrams sent in the relay's namespace. With GSO, one datagram can contain many
    /// packets.
    fn datagrams(&self) -> u64 {
        let file = format!("/proc/{}/net/snmp", self.relay.id());
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
            return 0;
        };
        let mut pairs = names.split(' ').zip(values.split(' '));
        let sent = pairs.find(|(name, _)| *name == "OutDatagrams");
        sent.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}

/// The number of datagrams for each transfer of 1 MB, including acknowledgements and requests.
fn per_transfer(datagrams: u64, requests: &[Request]) -> u64 {
    let transfers = requests.iter().filter(|request| request.kind == "transfer");
    datagrams / (transfers.count() as u64).max(1)
}

fn whole(number: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of things"
    )]
    let whole = number.max(0.0) as u64;
    whole
}

/// Resources in use at the relay; `None` without a response.
#[derive(Clone, Copy, Debug, Default)]
struct Resources {
    peers: Option<u64>,
    reservations: Option<u64>,
    circuits: Option<u64>,
    files: Option<u64>,
    connections: Option<u64>,
    pending: Option<u64>,
}

impl Resources {
    /// Whether no value exceeds that of `most`, whose values are known.
    fn is_within(self, most: Self) -> bool {
        [
            (self.peers, most.peers),
            (self.reservations, most.reservations),
            (self.circuits, most.circuits),
            (self.files, most.files),
            (self.connections, most.connections),
            (self.pending, most.pending),
        ]
        .iter()
        .all(|(now, most)| now.is_some() && now <= most)
    }
}

/// Samples the memory of a control group until dropped.
struct MemorySampler {
    most: Arc<AtomicU64>,
    sockets: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemorySampler {
    fn of(group: &Arc<ControlGroup>) -> Self {
        let mut sampler = Self {
            most: Arc::default(),
            sockets: Arc::default(),
            is_over: Arc::default(),
            thread: None,
        };
        let (most, sockets) = (Arc::clone(&sampler.most), Arc::clone(&sampler.sockets));
        let (is_over, group) = (Arc::clone(&sampler.is_over), Arc::clone(group));
        sampler.thread = Some(std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let memory = group.memory();
                most.fetch_max(memory.process + memory.sockets, Ordering::Relaxed);
                sockets.fetch_max(memory.sockets, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        }));
        sampler
    }
}

impl Drop for MemorySampler {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // The thread holds the group, which can only be removed after its last process has ended.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Summary of the requests of ordinary clients.
#[derive(Debug, Default)]
struct Service {
    requests: usize,
    in_time: usize,
    failed: usize,
    slowest_ms: u64,
}

impl Service {
    fn of(requests: &[Request], within_ms: u64) -> Self {
        Self {
            requests: requests.len(),
            in_time: requests
                .iter()
                .filter(|r| r.took_ms.is_some_and(|took| took <= within_ms))
                .count(),
            failed: requests.iter().filter(|request| !request.succeeded).count(),
            slowest_ms: requests
                .iter()
                .filter_map(|request| request.took_ms)
                .max()
                .unwrap_or(0),
        }
    }

    fn thousandths(&self) -> usize {
        self.in_time * 1000 / self.requests.max(1)
    }
}

/// Measurements during an attack.
struct Observed {
    /// The counts of the attackers.
    attack: Value,
    /// The requests of ordinary clients.
    requests: Vec<Request>,
    /// The longest response time of `/livez`, in seconds.
    probe: Option<f64>,
    ended: Instant,
}

/// Attacks the relay and measures the effect.
async fn attack(testbed: &mut Testbed, case: &Case) -> Observed {
    let attacker = Attacker {
        attack: case.attack,
        addresses: testbed.addresses.clone(),
        sources: case.from.count(),
        targets: testbed.targets.clone(),
    };
    let role = Role::Attacker(attacker);
    let mut attackers = role.start(&testbed.network.attackers, &[&testbed.attackers_group]);
    let setup = Instant::now();
    loop {
        let counts = attackers.event("attack").await;
        let is_set_up = counts["most_held"].as_u64() >= counts["goal"].as_u64();
        if is_set_up || setup.elapsed() >= SETUP || !testbed.is_alive() {
            break;
        }
    }
    println!("  set up after {:?}", setup.elapsed());
    let began = Instant::now();
    let (mut seen, mut most) = (0, [None; 3]);
    while began.elapsed() < Duration::from_secs(case.lasts) && testbed.is_alive() {
        attackers.event("attack").await;
        let remote = testbed.network.relay.remote_addresses();
        let is_attacker =
            |address: &&String| address.starts_with("11.") || address.starts_with("2001:db8:a:");
        seen = seen.max(remote.iter().filter(is_attacker).count());
        let resources = testbed.resources().await;
        let held = [
            resources.connections,
            resources.reservations,
            resources.circuits,
        ];
        for (most, now) in most.iter_mut().zip(held) {
            *most = now.max(*most);
        }
    }
    let requests = testbed.requests().await;
    let probe = testbed.get("probes").await.as_f64();
    testbed.attackers_group.lift_quota().unwrap();
    let attack = attackers.stop().await;
    println!("  attack {attack}, seen from {seen} addresses over TCP");
    println!("  connections, reservations, circuits at most: {most:?}");
    Observed {
        attack,
        requests,
        probe,
        ended: Instant::now(),
    }
}

/// Asserts the properties that hold under every attack.
fn assert_withstood(
    case: &Case,
    testbed: &Testbed,
    observed: &Observed,
    within_ms: u64,
    memory: u64,
) {
    let Observed {
        attack,
        requests,
        probe,
        ..
    } = observed;
    let service = Service::of(requests, within_ms);
    println!(
        "  {} of {} requests served within {within_ms} ms, the slowest in {} ms, {} failed twice; \
         slowest probe {probe:?} s",
        service.in_time, service.requests, service.slowest_ms, service.failed,
    );
    let failed = requests.iter().filter(|request| request.error.is_some());
    for request in failed.take(10) {
        println!("  {request:?}");
    }
    let slow = requests
        .iter()
        .filter(|request| request.took_ms.is_some_and(|took| took > within_ms));
    for request in slow.take(10) {
        println!("  {request:?}");
    }
    assert_eq!(testbed.limits.killed(), 0, "out-of-memory kills");
    assert!(testbed.is_alive(), "the relay has exited");
    assert!(memory <= case.memory, "{memory} MiB of memory");
    let has_attacked = match case.attack {
        Attack::QuicHandshakes => attack["attempts"].as_u64() > Some(100),
        Attack::DeadConnections => true,
        _ => attack["most_held"].as_u64() > Some(0),
    };
    assert!(has_attacked, "{attack}");
    assert!(
        probe.is_some_and(|probe| probe <= PROBE_TIMEOUT.as_secs_f64()),
        "/livez took {probe:?} s"
    );
    if case.serves_all() {
        assert!(service.thousandths() >= SERVED, "{service:?}");
        assert_eq!(service.failed, 0, "{service:?}");
    }
    if case.ordinary == Load::OneAddress {
        assert_eq!(service.failed, 0, "{service:?}");
    }
    if case.attack == Attack::DeadConnections {
        assert_eq!(attack["held"].as_u64(), Some(3), "{attack}");
    }
}

/// Asserts that, soon after the attack, the relay holds no more resources than ordinary clients need.
async fn assert_resources_released(testbed: &mut Testbed, usual: Resources, ended: Instant) {
    let more = 3 * CALLERS as u64;
    let allowed = |usual: Option<u64>, more: u64| Some(usual.unwrap_or(0) + more);
    let allowed = Resources {
        peers: allowed(usual.peers, more),
        reservations: allowed(usual.reservations, more),
        circuits: allowed(usual.circuits, more),
        files: allowed(usual.files, 3 * more),
        connections: allowed(usual.connections, more),
        pending: allowed(usual.pending, more),
    };
    loop {
        let now = testbed.resources().await;
        if now.is_within(allowed) {
            break;
        }
        let late = ended.elapsed();
        assert!(
            late <= RELEASE_TIMEOUT,
            "after {late:?}: {now:?}, {allowed:?} allowed"
        );
        sleep(Duration::from_millis(200)).await;
    }
    println!("  resources released after {:?}", ended.elapsed());
}

/// Stops the relay. Asserts that no ordinary peer lost its reservation before, and that no task panicked.
async fn assert_nothing_lost(testbed: Testbed) {
    // Ordinary clients and the network exist until the relay has exited.
    let Testbed {
        relay,
        targets,
        clients: _clients,
        network: _network,
        ..
    } = testbed;
    let is_lost = |event: &&Value| {
        (is(event, "reservation closed") || is(event, "reservation expired"))
            && targets.iter().any(|target| event["peer"] == **target)
    };
    let events = relay.stop().await;
    let before = events.iter().take_while(|event| !is(event, "draining"));
    let lost: Vec<_> = before.filter(is_lost).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    assert!(events.iter().all(|event| !is(event, "a task panicked")));
}

/// Runs a case.
async fn run(name: &str, case: Case) {
    let _serial = SERIAL.lock().await;
    let testbed = Testbed::set_up(&case).await;
    let testbed = testbed.map(|testbed| std::sync::Mutex::new(Some(testbed)));
    let needs = "root on Linux, control groups, ip, ss, nft and nsenter";
    let Some(testbed) = tools::or_skip(needs, &testbed) else {
        return;
    };
    let mut testbed = testbed.lock().unwrap().take().unwrap();
    println!("{name}: {case:?}");

    // Baseline without an attack.
    testbed.requests().await;
    let sent = testbed.datagrams();
    sleep(OBSERVATION).await;
    let quiet = testbed.requests().await;
    let datagrams = per_transfer(testbed.datagrams() - sent, &quiet);
    assert!(
        !quiet.is_empty() && quiet.iter().all(|request| request.succeeded),
        "{quiet:#?}"
    );
    let slowest_ms = Service::of(&quiet, 0).slowest_ms;
    let within_ms = u64::try_from(REQUEST_TIMEOUT.as_millis()).unwrap();
    let within_ms = within_ms.max(SLOWER * slowest_ms);
    let status = testbed.get("/status").await;
    let limit = status["memory"]["limit"].as_u64();
    assert_eq!(
        limit,
        Some(case.memory * MIB),
        "memory limit detected by the relay"
    );
    let usual = testbed.resources().await;
    testbed.get("probes").await;

    let sampler = MemorySampler::of(&testbed.limits);
    let observed = attack(&mut testbed, &case).await;
    let [memory, sockets] =
        [&sampler.most, &sampler.sockets].map(|most| most.load(Ordering::Relaxed).div_ceil(MIB));
    drop(sampler);
    println!("  memory {memory} MiB at most, of that {sockets} MiB of sockets");
    assert_withstood(&case, &testbed, &observed, within_ms, memory);
    assert_resources_released(&mut testbed, usual, observed.ended).await;

    // Ordinary clients are served as before the attack.
    testbed.requests().await;
    let sent = testbed.datagrams();
    sleep(OBSERVATION).await;
    let after = testbed.requests().await;
    let failed = Service::of(&after, within_ms).failed;
    assert_eq!(failed, 0, "after the attack");
    if case.attack == Attack::UnanswerablePackets {
        let now = per_transfer(testbed.datagrams() - sent, &after);
        println!("  {datagrams} datagrams for a transfer before, {now} after");
        assert!(
            now <= 2 * datagrams,
            "{datagrams}, then {now}: segmentation offload is off"
        );
    }
    assert_nothing_lost(testbed).await;
}
