//! A Prometheus server that scrapes a relay with the documented configuration.

use circuit_relay::wire::Status;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::PeerId;
use serde_json::Value;
use test_support::{
    process::Relay,
    prometheus::Scrape,
    raw::{Circuit, Raw, assert_status},
};

use crate::observability::{
    alerts::{RULES, TESTS},
    dashboard, file,
    names::{assert_known, in_template},
    prometheus, promql,
    server::{Server, wait},
    text,
};

/// A relay whose circuit has forwarded 300 bytes to the target and 50 bytes back, and a reserved peer
/// that was denied a circuit.
async fn used() -> (Relay, Raw) {
    let mut relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    let mut circuit = Circuit::open(&relay.quic()).await;
    circuit.near.write_all(&[7; 300]).await.unwrap();
    circuit.near.close().await.unwrap();
    circuit.far.write_all(&[7; 50]).await.unwrap();
    circuit.far.close().await.unwrap();
    circuit.far.read_to_end(&mut Vec::new()).await.unwrap();
    relay.event("circuit closed").await;
    drop(circuit);
    relay.event("reservation closed").await;
    let mut client = Raw::new(&relay.tcp()).await;
    assert_status(&client.reserve().await, Status::Ok);
    let (answer, _) = client.connect(PeerId::random()).await;
    assert_status(&answer, Status::NoReservation);
    (relay, client)
}

/// The configuration of the README, for this relay and with short intervals.
fn configuration(relay: &Relay) -> String {
    let readme = text("observability/README.md");
    let (_, rest) = readme.split_once("```yaml\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let mut configuration = block.to_owned();
    let targets = r#"["relay-1.example.net:8080", "relay-2.example.net:8080"]"#;
    let target = format!("[\"{}\"]", relay.admin());
    for (old, new) in [("15s", "500ms"), (targets, &target)] {
        assert!(configuration.contains(old), "{configuration}");
        configuration = configuration.replace(old, new);
    }
    configuration
}

async fn value(server: &Server, query: &str) -> Option<f64> {
    let result = server.query(query).await;
    let value = result.first()?["value"][1].as_str()?.parse();
    Some(value.unwrap())
}

/// The rules, after each has been evaluated.
async fn rules(server: &Server) -> Vec<Value> {
    wait("evaluation of every rule", async || {
        let groups = server.get("/api/v1/rules").await;
        let groups = groups["groups"].as_array().unwrap().clone();
        let rules: Vec<_> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
            .collect();
        let is_done = |rule: &Value| rule["health"] != "unknown";
        (!rules.is_empty() && rules.iter().all(is_done)).then_some(rules)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_and_evaluates_everything() {
    if prometheus().is_none() {
        return;
    }
    let (relay, _reserved) = used().await;
    let server = Server::start(&configuration(&relay), &file(RULES)).await;

    wait("second scrape", async || {
        value(&server, "rate(relay_runtime_busy_time_seconds_total[1m])").await
    })
    .await;
    assert_eq!(value(&server, "up").await, Some(1.0));
    let targets = server.get("/api/v1/targets").await;
    let target = &targets["activeTargets"][0];
    assert_eq!(target["health"], "up", "{target}");
    assert_eq!(target["lastError"], "", "{target}");
    // Only OpenMetrics metadata has names of counters without `_total`.
    let metadata = server
        .get("/api/v1/metadata?metric=relay_circuit_io_bytes")
        .await;
    let counter = &metadata["relay_circuit_io_bytes"][0];
    assert_eq!(counter["type"], "counter", "{metadata}");

    let transports = r#"source_transport="quic",target_transport="quic""#;
    for (query, expected) in [
        (
            format!(r#"relay_circuit_io_bytes_total{{direction="to_target",{transports}}}"#),
            300.0,
        ),
        (
            format!(r#"relay_circuit_io_bytes_total{{direction="to_source",{transports}}}"#),
            50.0,
        ),
        (
            r#"relay_hop_requests_total{reason="no_reservation"}"#.to_owned(),
            1.0,
        ),
        (
            r#"sum(relay_hop_requests_total{outcome="accepted"})"#.to_owned(),
            3.0,
        ),
        ("relay_reservation_active".to_owned(), 1.0),
        ("relay_reservation_limit".to_owned(), 1024.0),
    ] {
        assert_eq!(value(&server, &query).await, Some(expected), "{query}");
    }

    assert_rules_healthy(&server).await;
    assert_panels_have_data(&server, &Scrape::of(&relay).await).await;
}

/// Asserts that every rule is evaluated without an error, uses existing names, and does not fire.
async fn assert_rules_healthy(server: &Server) {
    let tests = text(TESTS);
    for rule in rules(server).await {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_eq!(rule["state"], "inactive", "{rule}");
        assert_known(rule["query"].as_str().unwrap());
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()));
        // The labels of the firing alert are those in its unit test.
        let fired = format!("{{alertname={}", rule["name"]);
        let fired = tests.lines().find(|line| line.contains(&fired)).unwrap();
        for annotation in ["summary", "description"] {
            let template = rule["annotations"][annotation].as_str().unwrap();
            for label in in_template(template) {
                assert!(fired.contains(&format!(",{label}=")), "{label}: {rule}");
            }
        }
    }
}

/// Asserts that every dashboard query returns data if the relay exports its series.
async fn assert_panels_have_data(server: &Server, scrape: &Scrape) {
    for (query, _) in dashboard::queries() {
        let is_exported = |series: &promql::Series| {
            scrape.0.iter().any(|sample| {
                let is_meant = |(label, values): &(String, Vec<String>)| {
                    let value = sample.labels.get(label);
                    value.is_none_or(|value| values.contains(value))
                };
                sample.name == series.name && series.labels.iter().all(is_meant)
            })
        };
        let is_exported = promql::used(&query).series.iter().all(is_exported);
        let result = server.query(&query).await;
        // A comparison may return no series.
        if is_exported && !query.contains("==") {
            assert!(!result.is_empty(), "{query}");
        }
    }
}
