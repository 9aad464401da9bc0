//! The admin endpoints over HTTP: responses, limits and timeouts.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    collections::HashSet,
    net::SocketAddr,
    process::Output,
    time::{Duration, Instant},
};

use circuit_relay::wire::Status;
use descord_relay::admin::client;
use futures::{AsyncReadExt, AsyncWriteExt};
use resource_manager::Resource;
use serde_json::{Value, json};
use test_support::{
    http::{self, send, until_closed},
    process::{Relay, command},
    raw::{Circuit, Raw, assert_status},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

const ANY_PORT: (&str, &str) = ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0");
/// Timeout for the request header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for unread responses.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Tolerance after a deadline, for a busy machine.
const SLACK: Duration = Duration::from_secs(6);

async fn start() -> Relay {
    Relay::start(&[ANY_PORT]).await
}

async fn healthcheck(variables: &[(&str, &str)]) -> Output {
    let output = command(variables).arg("healthcheck").output();
    timeout(test_support::PATIENCE, output)
        .await
        .unwrap()
        .unwrap()
}

/// Asserts that `healthcheck` fails for this address with this message.
async fn assert_unhealthy(address: SocketAddr, why: &str) {
    let address = address.to_string();
    let output = healthcheck(&[("RELAY_ADMIN_ADDRESS", &address)]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(
        printed.contains(&address) && printed.contains(why),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_has_identity_and_limits() {
    let begun = Instant::now();
    let relay = Relay::start(&[
        ANY_PORT,
        ("RELAY_INSTANCE", "relay-3"),
        ("RELAY_EXTERNAL_ADDRESSES", "/dns4/relay.example/tcp/443"),
        ("RELAY_MAX_RESERVATIONS", "7"),
        ("RELAY_MAX_RESERVATIONS_PER_PEER", "2"),
        ("RELAY_RESERVATION_TTL", "20m"),
        ("RELAY_MAX_CIRCUITS", "5"),
        ("RELAY_MAX_CIRCUITS_PER_PEER", "0"),
        ("RELAY_RATE_RESERVATIONS_PER_PEER", "20+10/m"),
        ("RELAY_RATE_CIRCUITS_PER_PEER", "7+2/s"),
        ("RELAY_MAX_CIRCUIT_DURATION", "90s"),
        ("RELAY_MAX_CIRCUIT_BYTES", "64KiB"),
        ("RELAY_MAX_MEMORY", "1GiB"),
        ("RELAY_MAX_BANDWIDTH", "1MB"),
        ("RELAY_MAX_BURST", "100KB"),
        ("RELAY_MAX_BANDWIDTH_PER_CIRCUIT", "1KB"),
    ])
    .await;
    let mut status = http::json(&relay, "/status").await;
    let uptime = status["uptime_seconds"].take().as_u64().unwrap();
    assert!(uptime <= begun.elapsed().as_secs(), "{uptime}");
    let started_at = status["started_at"].take();
    let started_at = humantime::parse_rfc3339(started_at.as_str().unwrap()).unwrap();
    assert!(started_at.elapsed().unwrap() < test_support::PATIENCE);
    let used = |status: &mut Value, of: &str| status[of]["used"].take().as_u64().unwrap();
    let memory = used(&mut status, "memory");
    assert!((1 << 20..1 << 30).contains(&memory), "{memory}");
    let files = used(&mut status, "file_descriptors");
    let limit = status["file_descriptors"]["limit"].take();
    assert!((10..limit.as_u64().unwrap_or(u64::MAX)).contains(&files));
    status["file_descriptors"]["limit_of_connections"].take();
    let resources = status["resources"].take();
    for name in Resource::NAMES {
        let resource = &resources[name];
        assert_eq!(resource["is_scarce"], false, "{name}");
        assert_eq!(resource["largest_prefix"], Value::Null, "{name}");
        assert_eq!(resource["used"], 0, "{name}");
    }
    assert_eq!(resources["reservations"]["limit"], 7);
    assert_eq!(resources["buffers"]["limit"], 1 << 28);
    let address = format!("/dns4/relay.example/tcp/443/p2p/{}", relay.peer_id);
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "peer_id": relay.peer_id.to_string(),
        "instance": "relay-3",
        "addresses": [address],
        "phase": "ready",
        "started_at": null,
        "uptime_seconds": null,
        "peers": 0,
        "connections": { "established": 0, "pending": 0, "refused": {} },
        "requests": { "refused": {} },
        "reservations": {
            "active": 0,
            "limit": 7,
            "limit_per_peer": 2,
            "limit_per_ip": null,
            "rate_per_peer": "20+10/m",
            "rate_per_ip": null,
            "ttl_seconds": 1200,
        },
        "circuits": {
            "active": 0,
            "limit": 5,
            "limit_per_source": null,
            "limit_per_target": null,
            "rate_per_peer": "7+2/s",
            "rate_per_ip": null,
            "limit_seconds": 90,
            "limit_bytes": 65536,
        },
        "bandwidth": {
            "limit": 1_000_000,
            "limit_per_peer": null,
            "limit_per_circuit": 1000,
            "burst": 100_000,
            "burst_per_peer": null,
            "burst_per_circuit": 65536,
            "burst_left": 100_000,
        },
        "memory": { "used": null, "limit": 1 << 30, "is_short": false },
        "file_descriptors": { "used": null, "limit": null, "limit_of_connections": null },
        "resources": null,
        "totals": { "bytes_relayed": 0, "circuits_finished": 0, "circuits_cut": 0 },
    });
    assert_eq!(status, expected);
    let drain = json!({ "phase": "ready", "circuits": 0, "reservations": 0, "seconds_left": null });
    assert_eq!(http::json(&relay, "/drainz").await, drain);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_counts_open_and_past_circuits_and_reservations() {
    let mut relay = start().await;
    let uses = |status: &Value| {
        let active = |what: &str| status[what]["active"].as_u64().unwrap();
        (active("reservations"), active("circuits"))
    };

    let mut target = Raw::new(&relay.tcp()).await;
    assert_status(&target.reserve().await, Status::Ok);
    relay.event("reservation accepted").await;
    http::json_where(&relay, "/status", |status| uses(status) == (1, 0)).await;

    let source = Raw::new(&relay.quic()).await;
    let mut circuit = Circuit::between(source, target).await;
    let status = http::json_where(&relay, "/status", |status| uses(status) == (1, 1)).await;
    assert_eq!(status["totals"]["circuits_finished"], 0, "{status}");

    circuit.near.write_all(&[7; 3000]).await.unwrap();
    circuit.near.close().await.unwrap();
    circuit.far.write_all(&[7; 500]).await.unwrap();
    circuit.far.close().await.unwrap();
    circuit.far.read_to_end(&mut Vec::new()).await.unwrap();
    let over =
        |status: &Value| uses(status) == (1, 0) && status["totals"]["circuits_finished"] == 1;
    let status = http::json_where(&relay, "/status", over).await;
    let totals = json!({ "bytes_relayed": 3500, "circuits_finished": 1, "circuits_cut": 0 });
    assert_eq!(status["totals"], totals);

    drop(circuit);
    http::json_where(&relay, "/status", |status| uses(status) == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_get_on_a_known_path_is_served() {
    let relay = start().await;
    for path in ["/x", "/livez/", "/metricsz", "/status/../livez", "/%2e"] {
        assert_eq!(http::status(&relay, path).await, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in [
            "/livez", "/readyz", "/drainz", "/status", "/metrics", "/peers",
        ] {
            let head = "Host: relay\r\nContent-Length: 0\r\nConnection: close";
            let request = format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n");
            let mut stream = send(relay.admin(), request.as_bytes()).await;
            let answer = until_closed(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_clients_are_closed_while_others_are_served() {
    let relay = start().await;
    let beginnings: [&[u8]; 3] = [
        b"",
        b"GET /livez HTTP/1.1\r\nHost: re",
        // This client has received its response and stays connected.
        b"GET /livez HTTP/1.1\r\nHost: relay\r\n\r\n",
    ];
    for beginning in beginnings {
        let begun = Instant::now();
        let mut stream = send(relay.admin(), beginning).await;
        let stalled = async {
            until_closed(&mut stream).await;
            begun.elapsed()
        };
        let others = async {
            for _ in 0..20 {
                assert_eq!(http::status(&relay, "/livez").await, 200);
            }
        };
        let (closed, ()) = tokio::join!(stalled, others);
        assert!(
            (HEADER_TIMEOUT / 2..HEADER_TIMEOUT + SLACK).contains(&closed),
            "closed after {closed:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_block_health_checks() {
    let relay = start().await;
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(TcpStream::connect(relay.admin()).await.unwrap());
    }
    let begun = Instant::now();
    // Like an orchestrator, which retries a failed health check.
    while client::get(relay.admin(), "/livez").await.is_err() {
        assert!(begun.elapsed() < HEADER_TIMEOUT + 2 * SLACK);
    }
    let took = begun.elapsed();
    assert!(took < HEADER_TIMEOUT + 2 * SLACK, "{took:?}");
}

/// A connection with more requests for metrics than the buffers can hold responses.
async fn open_without_reading(relay: &Relay) -> TcpStream {
    let request = "GET /metrics HTTP/1.1\r\nHost: relay\r\n\r\n";
    send(relay.admin(), request.repeat(200).as_bytes()).await
}

/// An orchestrator kills a relay whose health checks are not answered.
#[tokio::test(flavor = "multi_thread")]
async fn health_checks_are_answered_despite_unread_responses() {
    for clients in [64, 200] {
        let relay = start().await;
        assert_eq!(http::status(&relay, "/livez").await, 200);
        let before = relay.open_files();
        let mut stuck = Vec::new();
        for _ in 0..clients {
            stuck.push(open_without_reading(&relay).await);
        }
        let begun = Instant::now();
        loop {
            for path in ["/livez", "/readyz"] {
                let asked = Instant::now();
                assert_eq!(http::status(&relay, path).await, 200);
                let took = asked.elapsed();
                assert!(took < SLACK, "{path} with {clients} clients: {took:?}");
            }
            // Waits until the relay has closed the connections; the clients are still connected.
            if relay.open_files() <= before {
                break;
            }
            let took = begun.elapsed();
            assert!(took < WRITE_TIMEOUT + 5 * SLACK, "{clients}: {took:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (status, _) = http::get(&relay, "/metrics").await;
        assert_eq!(status, 200);
        drop(stuck);
        relay.stop().await;
    }
}

/// The write timeout applies to clients that read nothing, not to those that read slowly.
#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_receives_all_responses() {
    const ANSWERS: usize = 60;
    let relay = start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(relay.admin()).await.unwrap();
    let head = "GET /metrics HTTP/1.1\r\nHost: relay\r\n";
    let requests = format!("{head}\r\n").repeat(ANSWERS - 1) + head + "Connection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let mut answers = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    let reading = timeout(test_support::PATIENCE, async {
        loop {
            let read = stream.read(&mut chunk).await.unwrap();
            if read == 0 {
                return;
            }
            answers.extend_from_slice(&chunk[..read]);
            // Reads slowly for longer than the timeout, then fast.
            if begun.elapsed() < WRITE_TIMEOUT + SLACK {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    reading.await.unwrap();
    assert!(begun.elapsed() > WRITE_TIMEOUT, "all was buffered");
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), ANSWERS);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_rendered_once_a_second_at_most() {
    let relay = start().await;
    let begun = Instant::now();
    let mut renderings = HashSet::new();
    for _ in 0..50 {
        // The CPU time differs in each rendering.
        let (status, text) = http::get(&relay, "/metrics").await;
        assert_eq!(status, 200);
        renderings.insert(text);
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    let number = renderings.len();
    assert!(number <= seconds + 2, "{number} within {seconds} s");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_are_refused() {
    let relay = start().await;
    let mut request = b"GET /livez HTTP/1.1\r\nHost: relay\r\nX-Long: ".to_vec();
    request.resize(32 * 1024, b'a');
    let begun = Instant::now();
    let mut stream = send(relay.admin(), &request).await;
    let answer = until_closed(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    assert!(
        begun.elapsed() < HEADER_TIMEOUT,
        "the response waited for a timeout"
    );
    assert_eq!(http::status(&relay, "/livez").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_queries_the_relay_of_its_environment() {
    let mut relay = start().await;
    let address = relay.admin();
    let anywhere = format!("0.0.0.0:{}", address.port());
    for address in [address.to_string(), anywhere] {
        let output = healthcheck(&[("RELAY_ADMIN_ADDRESS", &address)]).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
    relay.signal(15);
    assert_eq!(relay.exit_code().await, Some(0));
    assert_unhealthy(address, "does not respond").await;
}

/// A container image has no other tool to read the status.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_can_be_printed() {
    let relay = start().await;
    let address = relay.admin().to_string();
    let output = command(&[("RELAY_ADMIN_ADDRESS", &address)])
        .arg("status")
        .output();
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["phase"], "ready");
    assert_eq!(printed["peer_id"], relay.peer_id.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_fails_without_an_answer_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_unhealthy(silent.local_addr().unwrap(), "does not respond").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_without_an_admin_address_fails() {
    let wrong = [("RELAY_ADMIN_ADDRESS", ""), ("RELAY_ADMIN_ADDRES", "::")];
    for variable in wrong {
        let output = healthcheck(&[variable]).await;
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(printed.contains("RELAY_ADMIN_ADDRESS"), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn occupied_admin_port_error_names_the_variable() {
    let other = start().await;
    let taken = other.admin().to_string();
    let output = command(&[
        ("RELAY_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/0"),
        ("RELAY_LOG_FORMAT", "json"),
        ("RELAY_ADMIN_ADDRESS", &taken),
    ])
    .output();
    let output = timeout(test_support::PATIENCE, output)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let cause = format!("cannot listen on {taken} (RELAY_ADMIN_ADDRESS): Address already in use");
    assert!(printed.contains(&cause), "{printed}");
    assert!(!printed.contains("relay ready"), "{printed}");
}
