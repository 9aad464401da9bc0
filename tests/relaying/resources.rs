//! A relay near its limit of memory or file descriptors. Expected: it rejects new connections, keeps
//! established ones, and accepts new ones again below the limit.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{io::Write as _, time::Duration};

use circuit_relay::wire::Status;
use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use libp2p::{Stream, ping};
use test_support::{
    PATIENCE, http, ordinary_clients,
    process::{Relay, is, socket},
    prometheus::Scrape,
    raw::{Circuit, Raw, Streams, assert_status, pattern},
};
use tokio::{net::TcpStream, process::Command, time::timeout};

/// Number of access rules that use most of the memory of a relay.
const RULES: u32 = 80_000;
const ADMIN: (&str, &str) = ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0");
/// Number of clients that connect concurrently.
const BATCH: usize = 25;
/// A write without progress for this long counts as blocked.
const BLOCKED: Duration = Duration::from_millis(500);
/// Number of circuits with unread data. Together they fill the memory available for buffers.
const UNREAD: usize = 36;

/// The number of connections refused for this reason.
async fn refused(relay: &Relay, reason: &str) -> f64 {
    refusals(&Scrape::of(relay).await, reason)
}

fn refusals(scrape: &Scrape, reason: &str) -> f64 {
    let reason = [("reason", reason)];
    scrape
        .sum("relay_connection_denied_total", &reason)
        .unwrap()
}

/// Waits until at least this many connections were refused for this reason.
async fn wait_for_refusals(relay: &Relay, reason: &str, number: u32) {
    let enough = |scrape: &Scrape| refusals(scrape, reason) >= f64::from(number);
    Scrape::find(relay, &format!("{number} refused for {reason}"), enough).await;
}

async fn assert_forwards(from: &mut Stream, to: &mut Stream) {
    // Less than each connection may have buffered, so slow forwarding does not matter.
    let bytes = pattern(30_000);
    let mut arrived = vec![0; bytes.len()];
    let write = async {
        from.write_all(&bytes).await?;
        from.flush().await
    };
    let carried = async { tokio::join!(write, to.read_exact(&mut arrived)) };
    let (written, read) = timeout(PATIENCE, carried).await.unwrap();
    written.unwrap();
    read.unwrap();
    assert_eq!(arrived, bytes);
}

/// Asserts that the circuit forwards data both ways, and that its target can renew.
async fn assert_circuit_works(circuit: &mut Circuit) {
    assert_forwards(&mut circuit.near, &mut circuit.far).await;
    assert_forwards(&mut circuit.far, &mut circuit.near).await;
    assert_status(&circuit.target.reserve().await, Status::Ok);
}

/// A relay that uses most of its memory limit itself. Returns the limit. Clients can make it buffer far
/// more than the rest, so the size of a connection does not matter.
async fn start_nearly_full() -> (Relay, usize) {
    // Each rule takes some hundred bytes of memory.
    let mut rules = tempfile::NamedTempFile::new().unwrap();
    for number in 0..RULES {
        let network = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        writeln!(rules, "deny reserve {network}").unwrap();
    }
    let rules = rules.path().to_str().unwrap();
    // Measures the relay's own memory.
    let relay = Relay::start(&[ADMIN, ("RELAY_ACCESS_FILE", rules)]).await;
    drop(Circuit::open(&relay.quic()).await);
    let limit = settled(&relay).await / 10 * 14;
    relay.stop().await;

    let relay = Relay::start(&[
        ADMIN,
        ("RELAY_ACCESS_FILE", rules),
        ("RELAY_MAX_MEMORY", &limit.to_string()),
        ("RELAY_IDLE_TIMEOUT", "1h"),
        ("RELAY_UNUSED_CIRCUIT_TIMEOUT", "0"),
        ("RELAY_PREFIX_SHARES", "127.0.0.0/8=100%"),
    ])
    .await;
    settled(&relay).await;
    (relay, limit)
}

/// The relay's own memory, after the allocator has returned unused pages, which takes a second.
async fn settled(relay: &Relay) -> usize {
    let mut used = relay.used_bytes();
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        used = used.min(relay.used_bytes());
    }
    used
}

/// Circuits whose targets do not read.
async fn unread_circuits(relay: &Relay) -> Vec<Circuit> {
    let address = relay.tcp();
    let mut circuits = Vec::new();
    for _ in 0..UNREAD {
        circuits.push(Circuit::open(&address).await);
    }
    circuits
}

/// Sends on one circuit after the other until the relay logs `message`. The relay buffers a yamux window
/// of unread data for each, more than for any other client.
async fn fill_until(relay: &mut Relay, circuits: &mut [Circuit], message: &str) {
    let bytes = pattern(64 * 1024);
    let fill = async {
        for circuit in circuits {
            while let Ok(Ok(())) = timeout(BLOCKED, circuit.near.write_all(&bytes)).await {}
        }
        // Keeps the connection open while waiting for the message.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = relay.event(message) => {}
        () = fill => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_are_refused_while_memory_is_short() {
    let (mut relay, limit) = start_nearly_full().await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    let mut unread = unread_circuits(&relay).await;
    fill_until(&mut relay, &mut unread, "memory pressure: rejecting").await;
    let status = http::json(&relay, "/status").await;
    assert_eq!(status["memory"]["limit"], limit);
    assert_eq!(status["memory"]["is_short"], true);
    let before = refused(&relay, "memory").await;
    for address in [relay.tcp(), relay.quic()] {
        assert!(Raw::try_new(&address).await.is_err(), "{address}");
    }
    assert!(refused(&relay, "memory").await >= before + 2.0);
    assert_circuit_works(&mut circuit).await;

    drop(unread);
    relay.event("memory pressure ended").await;
    ordinary_clients::assert_served(&relay.tcp()).await;
    ordinary_clients::assert_served(&relay.quic()).await;
    assert_circuit_works(&mut circuit).await;
    relay.stop().await;
}

/// Growing buffers of a few connections: their streams are reset, and no other connection is affected.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_the_largest_connections_are_reset_under_memory_pressure() {
    let (mut relay, _) = start_nearly_full().await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    let mut idle = Vec::new();
    for address in [relay.tcp(), relay.quic()] {
        let mut peer = Raw::new(&address).await;
        assert_status(&peer.reserve().await, Status::Ok);
        idle.push(peer);
    }
    let mut unread = unread_circuits(&relay).await;
    fill_until(&mut relay, &mut unread, "relieving memory").await;
    relay.event("memory pressure ended").await;
    assert!(refused(&relay, "memory").await >= 1.0);
    ordinary_clients::assert_served(&relay.tcp()).await;
    assert_circuit_works(&mut circuit).await;
    for peer in &mut idle {
        assert_status(&peer.reserve().await, Status::Ok);
    }
    drop(unread);
    relay.stop().await;
}

/// A relay with this limit of file descriptors.
async fn start_with(descriptors: u32) -> Relay {
    let mut command = Command::new("sh");
    let script = format!(r#"ulimit -n {descriptors} && exec "$0""#);
    command.args(["-c", &script, env!("CARGO_BIN_EXE_descord-relay")]);
    command.env_clear().env(ADMIN.0, ADMIN.1);
    Relay::start_as(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn file_descriptor_limit() {
    const DESCRIPTORS: u32 = 200;
    const FLOOD: u32 = 500;
    let relay = start_with(DESCRIPTORS).await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    let status = http::json(&relay, "/status").await;
    assert_eq!(status["file_descriptors"]["limit"], DESCRIPTORS);
    let sockets = DESCRIPTORS / 2;
    assert_eq!(status["file_descriptors"]["limit_of_connections"], sockets);

    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        flood.extend(TcpStream::connect(socket(&relay.tcp())).await);
    }
    // Accepted connections send nothing and are closed after the handshake timeout.
    wait_for_refusals(&relay, "file_descriptors", FLOOD - sockets).await;
    assert!(
        relay.open_files() < DESCRIPTORS as usize,
        "file descriptors left"
    );
    assert_circuit_works(&mut circuit).await;
    // QUIC connections use no file descriptors.
    ordinary_clients::assert_served(&relay.quic()).await;

    drop(flood);
    http::json_where(&relay, "/status", |status| {
        let used = status["file_descriptors"]["used"].as_u64();
        used.unwrap() < u64::from(sockets / 2)
    })
    .await;
    ordinary_clients::assert_served(&relay.tcp()).await;
    assert_circuit_works(&mut circuit).await;
    relay.stop().await;
}

/// Handshakes that are started and not completed.
#[tokio::test(flavor = "multi_thread")]
async fn pending_handshake_limit() {
    const FLOOD: u32 = 300;
    let relay = Relay::start(&[ADMIN, ("RELAY_MAX_MEMORY", "64MiB")]).await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    let scrape = Scrape::of(&relay).await;
    let pending = [("state", "pending")];
    let limit = scrape.sum("relay_connection_limit", &pending).unwrap();
    assert!((64.0..f64::from(FLOOD) / 1.5).contains(&limit), "{limit}");
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        flood.extend(TcpStream::connect(socket(&relay.tcp())).await);
    }
    let all = timeout(PATIENCE, async {
        while refused(&relay, "max_pending").await < f64::from(FLOOD) - limit {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    all.await.unwrap();
    assert_circuit_works(&mut circuit).await;
    drop(flood);
    ordinary_clients::assert_served(&relay.tcp()).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_logged_and_exported() {
    for (variable, bytes) in [("64MiB", Some(64_u32 << 20)), ("0", None)] {
        let relay = Relay::start(&[ADMIN, ("RELAY_MAX_MEMORY", variable)]).await;
        let limits = relay.events.iter().find(|event| is(event, "resources"));
        let limits = limits.unwrap();
        assert_eq!(
            limits["memory_bytes"].as_u64(),
            bytes.map(u64::from),
            "{limits}"
        );
        let limit = Scrape::of(&relay).await;
        let limit = limit.sum("relay_memory_limit_bytes", &[]);
        assert_eq!(limit, bytes.map(f64::from));
        relay.stop().await;
    }
    // The limit of the machine or the container.
    let relay = Relay::start(&[ADMIN]).await;
    let status = http::json(&relay, "/status").await;
    assert!(status["memory"]["limit"].as_u64().unwrap() > 1 << 20);
    relay.stop().await;
}

/// Writes to all streams until all are blocked.
async fn fill(streams: impl Iterator<Item = &mut Stream>) {
    let bytes = vec![7; 64 * 1024];
    join_all(streams.map(async |stream| {
        while let Ok(Ok(())) = timeout(BLOCKED, stream.write_all(&bytes)).await {}
    }))
    .await;
}

/// Both ends of each circuit send without reading, and have two ping streams whose responses they do not
/// read.
#[tokio::test(flavor = "multi_thread")]
async fn memory_of_unread_quic_circuits_is_bounded() {
    const CIRCUITS: usize = 100;
    const LIMIT: usize = 128 * 1024 * 1024;
    let relay = Relay::start(&[
        ADMIN,
        ("RELAY_MAX_MEMORY", "128MiB"),
        ("RELAY_MAX_RESERVATIONS_PER_IP", "0"),
    ])
    .await;
    let address = relay.quic();
    let mut circuit = Circuit::open(&relay.tcp()).await;
    assert_circuit_works(&mut circuit).await;
    let mut circuits = Vec::new();
    while circuits.len() < CIRCUITS {
        let opened = join_all((0..BATCH).map(async |_| {
            let source = Raw::with_streams(Streams::SmallWindow(1000), &address).await;
            let target = Raw::with_streams(Streams::SmallWindow(1000), &address).await;
            let mut circuit = Circuit::between(source, target).await;
            let mut pings = Vec::new();
            for _ in 0..2 {
                for end in [&mut circuit.source, &mut circuit.target] {
                    pings.push(end.open(ping::PROTOCOL_NAME).await.unwrap());
                }
            }
            (circuit, pings)
        }));
        circuits.extend(opened.await);
    }
    let before = relay.used_bytes();
    let streams = circuits.iter_mut().flat_map(|(circuit, pings)| {
        let ends = [&mut circuit.near, &mut circuit.far];
        ends.into_iter().chain(pings.iter_mut())
    });
    fill(streams).await;
    let used = relay.used_bytes();
    println!("{} MiB, {} MiB before", used >> 20, before >> 20);
    assert!(used <= LIMIT, "{used} bytes");
    for address in [relay.tcp(), relay.quic()] {
        ordinary_clients::assert_served(&address).await;
    }
    assert_circuit_works(&mut circuit).await;
    relay.stop().await;
}
