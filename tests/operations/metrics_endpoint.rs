//! `/metrics` of the real relay, validated by Prometheus' parsers.
//!
//! Needs `promtool` (Debian package `prometheus`).

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use test_support::{
    http::{self, send, until_closed},
    process::Relay,
    raw::Circuit,
    tools::or_skip,
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn start() -> Relay {
    Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await
}

/// Content type and body of the response to a request with this `Accept` header.
async fn scrape(relay: &Relay, accept: &str) -> (String, String) {
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: relay\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    let mut stream = send(relay.admin(), request.as_bytes()).await;
    let answer = until_closed(&mut stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let kind = head.lines().find_map(|l| l.strip_prefix("content-type: "));
    (kind.unwrap().to_owned(), body.to_owned())
}

/// A relay whose only circuit has forwarded 300 bytes to the target and 50 bytes back.
async fn used() -> Relay {
    let mut relay = start().await;
    let mut circuit = Circuit::open(&relay.quic()).await;
    circuit.near.write_all(&[7; 300]).await.unwrap();
    circuit.near.close().await.unwrap();
    circuit.far.write_all(&[7; 50]).await.unwrap();
    circuit.far.close().await.unwrap();
    circuit.far.read_to_end(&mut Vec::new()).await.unwrap();
    relay.event("circuit closed").await;
    // Ends the circuit, so that values no longer change.
    drop(circuit);
    relay.event("reservation closed").await;
    relay
}

fn promtool(arguments: &[&str], input: &str) -> Result<Output, String> {
    let child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    Ok(child.wait_with_output().unwrap())
}

/// The output of `promtool` for this input; `None` if it is missing and the test is skipped.
fn promtool_output(arguments: &[&str], input: &str) -> Option<Output> {
    let ran = promtool(&["--version"], "");
    or_skip("promtool", &ran)?;
    Some(promtool(arguments, input).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_the_text_format() {
    let relay = used().await;
    let (kind, text) = scrape(&relay, "*/*").await;
    assert_eq!(kind, TEXT);
    if let Some(output) = promtool_output(&["check", "metrics"], &text) {
        let warnings = String::from_utf8(output.stderr).unwrap();
        assert_eq!(warnings, "", "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_parses_open_metrics() {
    let relay = used().await;
    let (kind, text) = scrape(&relay, "application/openmetrics-text;version=1.0.0").await;
    assert_eq!(kind, OPEN_METRICS);
    // Only this command of `promtool` parses OpenMetrics, and it requires timestamps.
    let lines = text.lines().map(|line| match line.as_bytes().first() {
        Some(b'#') => format!("{line}\n"),
        _ => format!("{line} 1700000000\n"),
    });
    let stamped: String = lines.collect();
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("metrics");
    fs::write(&input, stamped).unwrap();
    let output = directory.path().join("blocks");
    let paths = [&input, &output].map(|path| path.to_str().unwrap());
    let arguments = [
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        paths[0],
        paths[1],
    ];
    if let Some(output) = promtool_output(&arguments, "") {
        assert!(output.status.success(), "{output:?}\n{text}");
    }
}

/// The series of a response with their values, in a common number format.
fn series(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|sample| {
            let (name, value) = sample.rsplit_once(' ').unwrap();
            let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
            let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
            labels.sort_unstable();
            let labels = labels.join(",").replace(".0\"", "\"");
            format!("{name}{{{labels}}} {}", value.parse::<f64>().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_formats_have_the_same_values() {
    let relay = used().await;
    let forwarded = [
        "relay_circuit_",
        "relay_hop_",
        "relay_reservation_",
        "target_info",
    ];
    let of_relaying = |text: &str| -> BTreeSet<String> {
        let is_forwarded = |s: &String| forwarded.iter().any(|prefix| s.starts_with(prefix));
        series(text).into_iter().filter(is_forwarded).collect()
    };
    let open_metrics = of_relaying(&scrape(&relay, OPEN_METRICS).await.1);
    assert_eq!(open_metrics, of_relaying(&scrape(&relay, TEXT).await.1));
    let transports = r#"source_transport="quic",target_transport="quic""#;
    for sample in [
        format!(r#"relay_circuit_io_bytes_total{{direction="to_target",{transports}}} 300"#),
        format!(r#"relay_circuit_io_bytes_total{{direction="to_source",{transports}}} 50"#),
        r#"relay_circuit_duration_seconds_count{reason="eof"} 1"#.to_owned(),
        r#"relay_circuit_duration_seconds_bucket{le="+Inf",reason="eof"} 1"#.to_owned(),
        r#"relay_hop_requests_total{outcome="accepted",reason="none",request="connect"} 1"#
            .to_owned(),
        "relay_circuit_limit{} 512".to_owned(),
    ] {
        assert!(
            open_metrics.contains(&sample),
            "{sample}: {open_metrics:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accept_header_is_served() {
    let relay = start().await;
    for accept in ["", "application/json", ";q=;;,", "\u{fc}", "*/*;q=0"] {
        assert_eq!(scrape(&relay, accept).await.0, TEXT, "{accept}");
    }
}

/// Concurrent scrapes are served one after the other, and other requests meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_scrapes_are_all_answered() {
    let relay = start().await;
    let scrapes = (0..50).map(|_| scrape(&relay, TEXT));
    let health = async {
        for _ in 0..20 {
            assert_eq!(http::status(&relay, "/livez").await, 200);
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(scrapes), health);
    for (_, text) in answers {
        assert!(text.contains("relay_phase{phase=\"ready\"} 1"), "{text}");
    }
}

#[tokio::test]
async fn no_metrics_when_the_sdk_is_disabled() {
    let relay = Relay::start(&[
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
        ("OTEL_SDK_DISABLED", "true"),
    ])
    .await;
    let (status, why) = http::get(&relay, "/metrics").await;
    assert_eq!(status, 404);
    assert!(why.contains("OTEL_SDK_DISABLED"), "{why}");
}
