//! The admin endpoints and the log during a drain.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::time::{Duration, Instant};

use circuit_relay::wire::Status;
use descord_relay::admin::client;
use futures::AsyncWriteExt;
use serde_json::{Value, json};
use test_support::{
    http,
    process::{Relay, command},
    raw::{Circuit, Raw, assert_status},
};

const SIGTERM: i32 = 15;
const SIGALRM: i32 = 14;

/// A relay whose drain only ends with its last circuit.
async fn start(variables: &[(&str, &str)]) -> Relay {
    let defaults = [
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
        ("RELAY_DRAIN_WINDOW", "0"),
        ("RELAY_DRAIN_TIMEOUT", "10h"),
    ];
    Relay::start(&[&defaults, variables].concat()).await
}

async fn finish(circuit: &mut Circuit) {
    circuit.near.close().await.unwrap();
    circuit.far.close().await.unwrap();
}

async fn healthcheck(relay: &Relay) -> Option<i32> {
    let address = relay.admin().to_string();
    let mut command = command(&[("RELAY_ADMIN_ADDRESS", &address)]);
    let status = command
        .stderr(std::process::Stdio::null())
        .arg("healthcheck")
        .status();
    status.await.unwrap().code()
}

/// The relay is ready during the whole drain delay, even without connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_ready_until_the_delay_is_over() {
    let mut relay = start(&[("RELAY_DRAIN_DELAY", "2s")]).await;
    assert_eq!(http::status(&relay, "/readyz").await, 200);
    relay.signal(SIGTERM);
    relay.event("draining").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        let (status, _) = http::get(&relay, "/readyz").await;
        assert_eq!(status, 200, "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(http::json(&relay, "/drainz").await["phase"], "draining");
    assert_eq!(http::json(&relay, "/status").await["phase"], "draining");
    assert_eq!(healthcheck(&relay).await, Some(0));
    let address = relay.admin();
    assert_eq!(relay.exit_code().await, Some(0));
    assert!(client::get(address, "/readyz").await.is_err());
}

/// Reserved peers can get circuits during the drain, so it only completes when there are no reservations.
/// A connected client without a reservation still keeps the process running.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_ready_until_its_last_circuit_is_over() {
    let mut relay = start(&[("RELAY_DRAIN_WINDOW", "10h")]).await;
    let idle = Raw::new(&relay.tcp()).await;
    let mut reserved = Raw::new(&relay.tcp()).await;
    assert_status(&reserved.reserve().await, Status::Ok);
    let mut circuits = [
        Circuit::open(&relay.tcp()).await,
        Circuit::open(&relay.quic()).await,
    ];
    relay.signal(SIGTERM);
    relay.event("no new connections are accepted").await;

    let [first, second] = &mut circuits;
    for (left, circuit) in [(2, first), (1, second)] {
        let drain = http::json_where(&relay, "/drainz", |d| d["circuits"] == left).await;
        assert_eq!(drain["phase"], "draining", "{drain}");
        // The reservations of the two targets, and one more.
        assert_eq!(drain["reservations"], 3, "{drain}");
        assert_eq!(http::status(&relay, "/readyz").await, 200);
        assert_eq!(healthcheck(&relay).await, Some(0));
        finish(circuit).await;
    }
    http::json_where(&relay, "/drainz", |drain| drain["circuits"] == 0).await;
    assert_eq!(http::status(&relay, "/readyz").await, 200);
    drop((reserved, circuits));
    http::json_where(&relay, "/drainz", |drain| drain["reservations"] == 0).await;
    assert_eq!(http::status(&relay, "/readyz").await, 503);
    assert_eq!(http::status(&relay, "/livez").await, 200);
    assert_eq!(healthcheck(&relay).await, Some(1));

    // The drain completes when the last client has disconnected.
    drop(idle);
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_finished"], 2, "{summary}");
    assert_eq!(relay.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_reports_its_progress() {
    let mut relay = start(&[]).await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    relay.signal(SIGTERM);
    relay.event("no new connections are accepted").await;
    let begun = Instant::now();
    let before = http::json(&relay, "/drainz").await;
    let seconds = |value: &Value| value["seconds_left"].as_u64().unwrap();
    assert!((35_995..=36_000).contains(&seconds(&before)), "{before}");

    for bytes in [700, 30_000] {
        circuit.near.write_all(&vec![7; bytes]).await.unwrap();
        circuit.near.flush().await.unwrap();
        let begun = Instant::now();
        let progress = relay.event("drain in progress").await;
        let waited = begun.elapsed().as_secs_f64();
        assert!((4.0..7.0).contains(&waited), "after {waited} s");
        assert_eq!(progress["circuits"], 1, "{progress}");
        assert_eq!(progress["reservations"], 1, "{progress}");
        assert_eq!(progress["bytes_moved"], bytes, "since the last line");
        let expected = 36_000 - begun.elapsed().as_secs();
        assert!(seconds(&progress).abs_diff(expected) <= 15, "{progress}");
    }
    let elapsed = begun.elapsed().as_secs();
    let after = http::json(&relay, "/drainz").await;
    let passed = seconds(&before) - seconds(&after);
    assert!(passed.abs_diff(elapsed) <= 1, "{passed} s of {elapsed} s");
    let uptime = http::json(&relay, "/status").await["uptime_seconds"].take();
    assert!(uptime.as_u64().unwrap() >= elapsed, "{uptime}");

    finish(&mut circuit).await;
    let summary = relay.event("drained").await;
    let took = summary["seconds"].as_f64().unwrap();
    assert!((took - begun.elapsed().as_secs_f64()).abs() < 1.0, "{took}");
    assert_eq!(relay.exit_code().await, Some(0));
}

/// `/livez` fails, but the relay still serves existing connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_a_panicked_task_is_not_alive_but_drains() {
    let mut relay = start(&[]).await;
    let mut circuit = Circuit::open(&relay.quic()).await;
    assert_eq!(http::get(&relay, "/livez").await, (200, "ok\n".to_owned()));
    relay.signal(SIGALRM);
    relay.event("no new connections are accepted").await;
    let (status, body) = http::get(&relay, "/livez").await;
    assert_eq!((status, body.as_str()), (503, "a task panicked\n"));
    assert_eq!(http::status(&relay, "/readyz").await, 200);
    let drain = http::json(&relay, "/drainz").await;
    assert_eq!(drain["circuits"], json!(1), "{drain}");

    finish(&mut circuit).await;
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_finished"], 1, "{summary}");
    assert_eq!(relay.exit_code().await, Some(1));
}
