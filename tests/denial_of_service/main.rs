//! Denial-of-service tests: attackers with one address or many, and their effect on ordinary clients.
//!
//! The relay, the attackers and the ordinary clients are processes in network namespaces of their
//! own. The relay has the usual limits and the memory of a control group, which it has to find by
//! itself; the attackers have half of the processors. The tests need root on Linux and the tools
//! `ip`, `ss`, `nft` and `nsenter`.
//!
//! A few short attacks are a part of `cargo test`; the others are those of `.ci/long`.

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
/// How long ordinary clients are observed before an attack.
const QUIET: Duration = Duration::from_secs(4);
/// The time within which an ordinary request has to succeed. On a slow machine it is this many times
/// as long as the slowest request without an attack, if that is more.
const WITHIN: Duration = Duration::from_secs(2);
const SLOWER: u64 = 4;
/// The part of the requests that has to succeed within that time, in thousandths.
const SERVED: usize = 995;
/// By when everything is given back after an attack: 10 s, and what the looks may take.
const RETURNED: Duration = Duration::from_secs(12);
/// How long `/livez` may take: orchestrators allow for a few seconds.
const PROBE: Duration = Duration::from_secs(5);
/// The number of ordinary peers with a reservation, and of clients that make requests.
const RESERVED: usize = 8;
const CALLERS: usize = 3;
/// Addresses of ordinary clients.
const CLIENTS: Sources = Sources::Ipv4(40);

/// One of these tests runs at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// One attack.
#[derive(Clone, Copy, Debug)]
struct Case {
    attack: Attack,
    from: Sources,
    /// Of the relay's control group, in MiB.
    memory: u64,
    /// In seconds.
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

    /// Whether new clients are to be served: the attackers have so few addresses that they cannot
    /// take everything as ordinary clients.
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

/// The tests that are a part of `.ci/run`.
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
    role::fill();
}

/// The processes of a test.
struct Stage {
    relay: Relay,
    limits: Arc<ControlGroup>,
    observer: Process,
    clients: Process,
    targets: Vec<String>,
    addresses: Addresses,
    attackers_group: ControlGroup,
    // Removed last.
    network: Network,
}

impl Stage {
    /// Starts the relay and the ordinary clients.
    async fn set(case: &Case) -> Result<Self, String> {
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
            // Tests compare the log with the peers.
            ("RELAY_PEER_IDS", "full"),
            ("RELAY_STATS_INTERVAL", "5s"),
            // What tests of one address do without, and what is usual.
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
            // What is measured is about QUIC.
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

    /// What the relay answers to a request for this path; null if it does not.
    async fn look(&mut self, path: &str) -> Value {
        self.observer.send(path).await;
        self.observer.event("answer").await["answer"].take()
    }

    /// What the relay holds.
    async fn holds(&mut self) -> Holds {
        let status = self.look("/status").await;
        let metrics = self.look("/metrics").await;
        let metric = |name: &str| metrics[name].as_f64().map(whole);
        Holds {
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

    /// How many datagrams the relay's namespace has sent, of which each may be many packets.
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

/// The datagrams of a transfer of 1 MB, with all that belongs to it.
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

/// Resources in use at the relay; `None` where it does not answer.
#[derive(Clone, Copy, Debug, Default)]
struct Holds {
    peers: Option<u64>,
    reservations: Option<u64>,
    circuits: Option<u64>,
    files: Option<u64>,
    connections: Option<u64>,
    pending: Option<u64>,
}

impl Holds {
    /// No more than in `most`, which is known.
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

/// Measures the memory of a control group until it is dropped.
struct Watch {
    most: Arc<AtomicU64>,
    sockets: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn of(group: &Arc<ControlGroup>) -> Self {
        let mut watch = Self {
            most: Arc::default(),
            sockets: Arc::default(),
            is_over: Arc::default(),
            thread: None,
        };
        let (most, sockets) = (Arc::clone(&watch.most), Arc::clone(&watch.sockets));
        let (is_over, group) = (Arc::clone(&watch.is_over), Arc::clone(group));
        watch.thread = Some(std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let memory = group.memory();
                most.fetch_max(memory.process + memory.sockets, Ordering::Relaxed);
                sockets.fetch_max(memory.sockets, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        }));
        watch
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It has the group, which can be removed when there is no process left.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The outcome of the requests of ordinary clients.
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

/// What was observed during an attack.
struct Observed {
    /// The counts of the attackers.
    attack: Value,
    /// The requests of ordinary clients.
    requests: Vec<Request>,
    /// The longest time, in seconds, until `/livez` answered.
    probe: Option<f64>,
    ended: Instant,
}

/// Attacks the relay of `stage`, and observes it.
async fn attack(stage: &mut Stage, case: &Case) -> Observed {
    let attacker = Attacker {
        attack: case.attack,
        addresses: stage.addresses.clone(),
        sources: case.from.count(),
        targets: stage.targets.clone(),
    };
    let role = Role::Attacker(attacker);
    let mut attackers = role.start(&stage.network.attackers, &[&stage.attackers_group]);
    let setup = Instant::now();
    loop {
        let counts = attackers.event("attack").await;
        let is_set_up = counts["most_held"].as_u64() >= counts["goal"].as_u64();
        if is_set_up || setup.elapsed() >= SETUP || !stage.is_alive() {
            break;
        }
    }
    println!("  set up after {:?}", setup.elapsed());
    let began = Instant::now();
    let (mut seen, mut most) = (0, [None; 3]);
    while began.elapsed() < Duration::from_secs(case.lasts) && stage.is_alive() {
        attackers.event("attack").await;
        let remote = stage.network.relay.remote_addresses();
        let is_attacker =
            |address: &&String| address.starts_with("11.") || address.starts_with("2001:db8:a:");
        seen = seen.max(remote.iter().filter(is_attacker).count());
        let holds = stage.holds().await;
        let held = [holds.connections, holds.reservations, holds.circuits];
        for (most, now) in most.iter_mut().zip(held) {
            *most = now.max(*most);
        }
    }
    let requests = stage.requests().await;
    let probe = stage.look("probes").await.as_f64();
    stage.attackers_group.lift_quota().unwrap();
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

/// Asserts what holds under every attack.
fn assert_withstood(case: &Case, stage: &Stage, observed: &Observed, within_ms: u64, memory: u64) {
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
    assert_eq!(stage.limits.killed(), 0, "killed for want of memory");
    assert!(stage.is_alive(), "the relay has ended");
    assert!(memory <= case.memory, "{memory} MiB of memory");
    let has_attacked = match case.attack {
        Attack::QuicHandshakes => attack["attempts"].as_u64() > Some(100),
        Attack::DeadConnections => true,
        _ => attack["most_held"].as_u64() > Some(0),
    };
    assert!(has_attacked, "{attack}");
    assert!(
        probe.is_some_and(|probe| probe <= PROBE.as_secs_f64()),
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

/// The relay holds no more than ordinary clients need, soon after the attack ended.
async fn assert_returned(stage: &mut Stage, usual: Holds, ended: Instant) {
    let more = 3 * CALLERS as u64;
    let allowed = |usual: Option<u64>, more: u64| Some(usual.unwrap_or(0) + more);
    let allowed = Holds {
        peers: allowed(usual.peers, more),
        reservations: allowed(usual.reservations, more),
        circuits: allowed(usual.circuits, more),
        files: allowed(usual.files, 3 * more),
        connections: allowed(usual.connections, more),
        pending: allowed(usual.pending, more),
    };
    loop {
        let now = stage.holds().await;
        if now.is_within(allowed) {
            break;
        }
        let late = ended.elapsed();
        assert!(
            late <= RETURNED,
            "after {late:?}: {now:?}, {allowed:?} allowed"
        );
        sleep(Duration::from_millis(200)).await;
    }
    println!("  given back after {:?}", ended.elapsed());
}

/// Ends the relay: no ordinary peer has lost its reservation before, and no task has panicked.
async fn assert_nothing_lost(stage: Stage) {
    // Ordinary clients and the network are there until the relay has ended.
    let Stage {
        relay,
        targets,
        clients: _clients,
        network: _network,
        ..
    } = stage;
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
    let _alone = ALONE.lock().await;
    let stage = Stage::set(&case).await;
    let stage = stage.map(|stage| std::sync::Mutex::new(Some(stage)));
    let needs = "root on Linux, control groups, ip, ss, nft and nsenter";
    let Some(stage) = tools::or_skip(needs, &stage) else {
        return;
    };
    let mut stage = stage.lock().unwrap().take().unwrap();
    println!("{name}: {case:?}");

    // Without an attack.
    stage.requests().await;
    let sent = stage.datagrams();
    sleep(QUIET).await;
    let quiet = stage.requests().await;
    let datagrams = per_transfer(stage.datagrams() - sent, &quiet);
    assert!(
        !quiet.is_empty() && quiet.iter().all(|request| request.succeeded),
        "{quiet:#?}"
    );
    let slowest_ms = Service::of(&quiet, 0).slowest_ms;
    let within_ms = u64::try_from(WITHIN.as_millis()).unwrap();
    let within_ms = within_ms.max(SLOWER * slowest_ms);
    let status = stage.look("/status").await;
    let limit = status["memory"]["limit"].as_u64();
    assert_eq!(limit, Some(case.memory * MIB), "found by the relay");
    let usual = stage.holds().await;
    stage.look("probes").await;

    let watch = Watch::of(&stage.limits);
    let observed = attack(&mut stage, &case).await;
    let [memory, sockets] =
        [&watch.most, &watch.sockets].map(|most| most.load(Ordering::Relaxed).div_ceil(MIB));
    drop(watch);
    println!("  memory {memory} MiB at most, of that {sockets} MiB of sockets");
    assert_withstood(&case, &stage, &observed, within_ms, memory);
    assert_returned(&mut stage, usual, observed.ended).await;

    // Ordinary clients go on as before.
    stage.requests().await;
    let sent = stage.datagrams();
    sleep(QUIET).await;
    let after = stage.requests().await;
    let failed = Service::of(&after, within_ms).failed;
    assert_eq!(failed, 0, "after the attack");
    if case.attack == Attack::UnanswerablePackets {
        let now = per_transfer(stage.datagrams() - sent, &after);
        println!("  {datagrams} datagrams for a transfer before, {now} after");
        assert!(
            now <= 2 * datagrams,
            "{datagrams}, then {now}: each packet by itself"
        );
    }
    assert_nothing_lost(stage).await;
}
