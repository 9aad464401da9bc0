//! Every instrument changes when the event that it measures occurs.

use std::collections::HashSet;

use circuit_relay::{
    MAX_CONNECTIONS_PER_PEER,
    wire::{self, Status, StopMessage, StopType},
};
use descord_relay::{
    metrics::{INSTRUMENTS, InstrumentKind},
    telemetry::prometheus::MAX_AGE,
};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, identity::Keypair};
use test_support::{
    PATIENCE,
    auth_server::{AuthServer, Mode},
    autonat,
    process::{Relay, kill, socket},
    prometheus::{Scrape, name},
    raw::{Circuit, Raw, assert_status, pattern},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::metrics::{start, wait_for_sum};

const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
/// More than the local queue of a runtime thread can hold.
const MANY: usize = 600;
/// The first bytes of every TCP connection.
const MULTISTREAM: &[u8] = b"\x13/multistream/1.0.0\n";
const NOISE: &[u8] = b"\x07/noise\n";

/// A reservation that is renewed, and one that is refused at the limit.
async fn reservations(relay: &Relay) -> (Raw, Scrape) {
    let mut reserved = Raw::new(&relay.tcp()).await;
    assert_status(&reserved.reserve().await, Status::Ok);
    assert_status(&reserved.reserve().await, Status::Ok);
    let mut second = Raw::new(&relay.quic()).await;
    assert_status(&second.reserve().await, Status::Ok);
    let mut late = Raw::new(&relay.quic()).await;
    assert_status(&late.reserve().await, Status::ReservationRefused);
    wait_for_sum(relay, "relay_reservation_active", &[], 2.0).await;
    for (labels, expected) in [
        ([("outcome", "accepted"), ("reason", "none")], 2.0),
        ([("outcome", "renewed"), ("reason", "none")], 1.0),
        ([("outcome", "denied"), ("reason", "max_reservations")], 1.0),
    ] {
        wait_for_sum(relay, "relay_hop_requests_total", &labels, expected).await;
    }
    drop(second);
    let ended = "relay_reservation_duration_seconds_count";
    let scrape = wait_for_sum(relay, ended, &[("reason", "closed")], 1.0).await;
    (reserved, scrape)
}

/// A circuit that both sides close, and one whose receiver does not read and disconnects.
async fn circuits(relay: &Relay) -> Vec<Scrape> {
    let mut circuit = Circuit::open(&relay.quic()).await;
    circuit.near.write_all(&pattern(1000)).await.unwrap();
    circuit.near.close().await.unwrap();
    circuit.far.write_all(&pattern(10)).await.unwrap();
    circuit.far.close().await.unwrap();
    circuit.near.read_to_end(&mut Vec::new()).await.unwrap();
    let ended = "relay_circuit_duration_seconds_count";
    wait_for_sum(relay, ended, &[("reason", "eof")], 1.0).await;
    drop(circuit);
    wait_for_sum(relay, "relay_reservation_duration_seconds_count", &[], 2.0).await;

    let circuit = Circuit::open(&relay.quic()).await;
    let open = wait_for_sum(relay, "relay_circuit_active", &[], 1.0).await;
    let (mut near, far) = (circuit.near, circuit.far);
    let endless = pattern(100_000);
    let writing = async { while near.write_all(&endless).await.is_ok() {} };
    let cause = [("cause", "receiver")];
    let held = tokio::select! {
        held = wait_for_sum(relay, "relay_throttle_waits_total", &cause, 1.0) => held,
        () = writing => panic!("the circuit ended"),
    };
    drop((circuit.source, circuit.target, near, far));
    // Either as a reset or as a lost connection, depending on which is detected first.
    let left = wait_for_sum(relay, ended, &[], 2.0).await;
    wait_for_sum(relay, "relay_reservation_duration_seconds_count", &[], 3.0).await;
    vec![open, held, left]
}

/// A target that refuses one circuit and does not respond to the next.
async fn stops(relay: &Relay, reserved: &mut Raw) -> Scrape {
    let mut source = Raw::new(&relay.quic()).await;
    let target = reserved.peer_id;
    let refuse = async {
        let mut stream = reserved.stop().await;
        let _: StopMessage = wire::read(&mut stream).await.unwrap();
        let refusal = StopMessage {
            kind: Some(StopType::Status.into()),
            status: Some(Status::PermissionDenied.into()),
            ..StopMessage::default()
        };
        wire::write(&mut stream, &refusal).await.unwrap();
        stream.close().await.unwrap();
    };
    let ((answer, _), ()) = tokio::join!(source.connect(target), refuse);
    assert_status(&answer, Status::ConnectionFailed);
    let ignore = async { drop(reserved.stop().await) };
    let ((answer, _), ()) = tokio::join!(source.connect(target), ignore);
    assert_status(&answer, Status::ConnectionFailed);
    // A source that disconnects before the target's response.
    let mut source = Raw::new(&relay.tcp()).await;
    let asked = tokio::select! {
        biased;
        _ = source.connect(target) => panic!("the request completed without a response"),
        stop = reserved.stop() => stop,
    };
    drop(source);
    let stop = "relay_stop_duration_seconds_count";
    wait_for_sum(relay, stop, &[("outcome", "abandoned")], 1.0).await;
    drop(asked);
    wait_for_sum(relay, stop, &[("outcome", "accepted")], 2.0).await;
    wait_for_sum(relay, stop, &[("outcome", "refused")], 1.0).await;
    wait_for_sum(relay, stop, &[("outcome", "failed")], 1.0).await
}

/// An incomplete connection, a failed handshake, and a connection beyond the limit of a peer.
async fn connections(relay: &Relay) -> Vec<Scrape> {
    let mut tcp = TcpStream::connect(socket(&relay.tcp())).await.unwrap();
    let pending = wait_for_sum(relay, "relay_connection_pending", &[], 1.0).await;
    tcp.write_all(MULTISTREAM).await.unwrap();
    tcp.write_all(NOISE).await.unwrap();
    tcp.write_all(b"\x00\x04none").await.unwrap();
    let failed = [
        ("transport", "tcp"),
        ("security", "noise"),
        ("outcome", "failed"),
    ];
    let failed = wait_for_sum(
        relay,
        "relay_handshake_duration_seconds_count",
        &failed,
        1.0,
    )
    .await;

    let key = Keypair::generate_ed25519();
    let mut connections = Vec::new();
    for _ in 0..=MAX_CONNECTIONS_PER_PEER {
        connections.push(Raw::with_key(key.clone(), &relay.tcp()).await);
    }
    let denied = [("reason", "max_connections_per_peer")];
    let denied = wait_for_sum(relay, "relay_connection_denied_total", &denied, 1.0).await;
    vec![pending, failed, denied]
}

/// More concurrent work than the local queues of the threads can hold.
async fn concurrent_connections(relay: &Relay) -> Scrape {
    let address = socket(&relay.tcp());
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let many = MANY as f64;
    // The scrape may miss the queued tasks, so new connections retry.
    loop {
        let mut tcp_streams = Vec::new();
        for _ in 0..MANY {
            tcp_streams.push(TcpStream::connect(address).await.unwrap());
        }
        wait_for_sum(relay, "relay_connection_pending", &[], many).await;
        // All connections become readable at once, and the scrape follows immediately.
        kill(SIGSTOP, relay.id());
        sleep(MAX_AGE).await;
        for tcp in &mut tcp_streams {
            tcp.write_all(MULTISTREAM).await.unwrap();
        }
        let scrape = Scrape::recent(relay);
        let wake = async { kill(SIGCONT, relay.id()) };
        let (scrape, ()) = tokio::join!(scrape, wake);
        if scrape.sum("relay_runtime_queue", &[]).unwrap() > 0.0 {
            return scrape;
        }
    }
}

/// Dials of a peer's own addresses, and a refused dial of another one.
async fn dials(relay: &Relay) -> Vec<Scrape> {
    let mut client = autonat::Client::new(&relay.tcp()).await;
    let series = "relay_autonat_dials_total";
    let mut scrapes = Vec::new();
    for (address, number) in client.addresses.clone().iter().zip([1.0, 2.0]) {
        assert!(client.is_reachable(address).await);
        let dialled = [("outcome", "dialled")];
        scrapes.push(wait_for_sum(relay, series, &dialled, number).await);
    }
    let foreign = "/ip4/127.0.0.2/tcp/1".parse().unwrap();
    let refused = [("outcome", "foreign_address")];
    // The client repeats its request until it is dropped.
    tokio::select! {
        scrape = wait_for_sum(relay, series, &refused, 1.0) => scrapes.push(scrape),
        () = client.ask([foreign]) => unreachable!("the client repeats its request until it is dropped"),
    }
    scrapes
}

/// Another relay with access control by a file, which changes, and by an endpoint.
async fn access() -> Vec<Scrape> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.rules");
    std::fs::write(&file, "deny connect 192.0.2.1").unwrap();
    let auth_server = AuthServer::start(Mode::Deny).await;
    let relay = start(&[
        ("RELAY_ACCESS_FILE", file.to_str().unwrap()),
        ("RELAY_ACCESS_URL", &auth_server.url()),
    ])
    .await;
    let mut scrapes = vec![wait_for_sum(&relay, "relay_access_rules", &[], 1.0).await];
    let mut peer = Raw::new(&relay.tcp()).await;
    for _ in 0..2 {
        assert_status(&peer.reserve().await, Status::PermissionDenied);
    }
    let reason = [("request", "reserve"), ("reason", "access_decision")];
    wait_for_sum(&relay, "relay_hop_requests_total", &reason, 2.0).await;
    let lookups = "relay_access_cache_lookups_total";
    wait_for_sum(&relay, lookups, &[("outcome", "miss")], 1.0).await;
    wait_for_sum(&relay, lookups, &[("outcome", "hit")], 1.0).await;
    let denied = [("outcome", "denied")];
    let decisions = "relay_access_decision_duration_seconds_count";
    scrapes.push(wait_for_sum(&relay, decisions, &denied, 1.0).await);
    std::fs::write(&file, "nonsense").unwrap();
    scrapes.push(wait_for_sum(&relay, "relay_access_stale", &[], 1.0).await);
    std::fs::write(&file, "deny reserve,connect 192.0.2.1").unwrap();
    scrapes.push(wait_for_sum(&relay, "relay_access_rules", &[], 2.0).await);
    let mut second = Raw::new(&relay.tcp()).await;
    assert_status(&second.reserve().await, Status::PermissionDenied);
    scrapes.push(wait_for_sum(&relay, decisions, &denied, 2.0).await);
    for outcome in ["success", "failure"] {
        wait_for_sum(
            &relay,
            "relay_access_reloads_total",
            &[("outcome", outcome)],
            1.0,
        )
        .await;
    }
    scrapes
}

/// More relays, each with one bandwidth limit, for which a circuit waits.
async fn bandwidth() -> Vec<Scrape> {
    let mut scrapes = Vec::new();
    for (scope, variable) in [
        ("circuit", "RELAY_MAX_BANDWIDTH_PER_CIRCUIT"),
        ("peer", "RELAY_MAX_BANDWIDTH_PER_PEER"),
        ("relay", "RELAY_MAX_BANDWIDTH"),
    ] {
        let relay = start(&[(variable, "100KB")]).await;
        let limit = "relay_bandwidth_limit_bytes_per_second";
        scrapes.push(wait_for_sum(&relay, limit, &[("scope", scope)], 100_000.0).await);
        let mut circuit = Circuit::open(&relay.tcp()).await;
        circuit.near.write_all(&pattern(200_000)).await.unwrap();
        circuit.near.flush().await.unwrap();
        let waits = "relay_throttle_waits_total";
        scrapes.push(wait_for_sum(&relay, waits, &[("cause", scope)], 1.0).await);
    }
    scrapes
}

/// Tested by other tests: the first two by the tests of the exporters, the last one, which changes if the
/// system does not support an announced feature, by those of the UDP socket.
const TESTED_ELSEWHERE: [&str; 3] = [
    "relay.telemetry.exports",
    "relay.telemetry.lost",
    "relay.quic.offload.fallbacks",
];

/// Values that may not change. The phases always add up to 1.
const FIXED: [&str; 6] = [
    "process.memory.virtual",
    "process.start_time",
    "process.thread.count",
    "relay.build.info",
    "relay.phase",
    "relay.runtime.workers",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_instrument_changes() {
    let relay = start(&[
        ("RELAY_MAX_RESERVATIONS", "2"),
        ("RELAY_DRAIN_TIMEOUT", "1h"),
        ("RELAY_DRAIN_WINDOW", "1h"),
    ])
    .await;
    let (mut reserved, scrape) = reservations(&relay).await;
    let mut scrapes = vec![scrape];
    scrapes.extend(circuits(&relay).await);
    scrapes.push(stops(&relay, &mut reserved).await);
    let (answer, _) = reserved.connect(PeerId::random()).await;
    assert_status(&answer, Status::NoReservation);
    scrapes.extend(connections(&relay).await);
    scrapes.extend(dials(&relay).await);
    scrapes.push(
        timeout(PATIENCE, concurrent_connections(&relay))
            .await
            .unwrap(),
    );
    scrapes.extend(access().await);
    scrapes.extend(bandwidth().await);
    relay.signal(SIGTERM);
    let draining = [("phase", "draining")];
    let left = |scrape: &Scrape| scrape.sum("relay_drain_time_left_seconds", &[]);
    assert!(scrapes.iter().all(|scrape| left(scrape).is_none()));
    let first = wait_for_sum(&relay, "relay_phase", &draining, 1.0).await;
    let less = |scrape: &Scrape| left(scrape) < left(&first);
    let second = Scrape::find(&relay, "time that passes", less).await;
    assert!((3500.0..=3600.0).contains(&left(&second).unwrap()));
    scrapes.extend([first, second]);

    for instrument in INSTRUMENTS {
        let series = match instrument.kind {
            InstrumentKind::Histogram(_) => format!("{}_count", name(instrument)),
            _ => name(instrument),
        };
        if TESTED_ELSEWHERE.contains(&instrument.name) {
            continue;
        }
        let values = scrapes.iter().filter_map(|s| s.sum(&series, &[]));
        let values: Vec<_> = values.collect();
        assert!(
            values.iter().any(|value| *value > 0.0),
            "{series}: {values:?}"
        );
        let is_fixed = instrument.name.contains(".limit") || FIXED.contains(&instrument.name);
        let sum = |value: &f64| value.to_bits();
        let different: HashSet<_> = values.iter().map(sum).collect();
        assert!(is_fixed || different.len() > 1, "{series}: {values:?}");
    }
}
