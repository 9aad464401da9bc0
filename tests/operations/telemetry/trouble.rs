//! Failures of the collector. Expected: the relay works, logs the failure once, and resumes the export.

use std::time::{Duration, Instant};

use circuit_relay::wire::Status;
use test_support::{
    collector::{Collector, Mode},
    ordinary_clients,
    process::{Relay, is},
    raw::{Raw, assert_status},
};

use crate::telemetry::{circuit::carry, wire::PROTOCOLS};

const SECRET: &str = "hunter2";

/// Export timeout for a responding collector, in milliseconds.
const DEFAULT_TIMEOUT_MS: &str = "2000";
/// Export timeout for one that does not respond, in milliseconds.
const SHORT_TIMEOUT_MS: &str = "300";

/// A relay that only exports traces, with this timeout in milliseconds.
async fn relay(endpoint: &str, protocol: &str, timeout: &str) -> Relay {
    Relay::start(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", timeout),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ])
    .await
}

fn endpoint(collector: &Collector) -> String {
    format!("{}/v1/traces", collector.url())
}

/// Asserts that the relay works, and logs the failure and the recovery once each.
async fn assert_survived(mut relay: Relay, what: &str, recover: impl AsyncFnOnce() -> Collector) {
    let begin = Instant::now();
    carry(&relay).await;
    let warning = relay.event("telemetry export failed").await;
    assert_eq!(warning["level"], "WARN", "{what}");
    assert_eq!(warning["signal"], "traces", "{what}");
    assert_eq!(warning["failed"], 1, "{what}");
    assert!(warning["lost"].as_u64().unwrap() > 0, "{what} {warning}");
    for field in ["cause", "check", "endpoint"] {
        assert_ne!(warning[field].as_str().unwrap(), "", "{what} {warning}");
    }
    for _ in 0..3 {
        ordinary_clients::assert_served(&relay.quic()).await;
        carry(&relay).await;
    }
    let collector = recover().await;
    // The recovery is only detected by an export.
    let mut rounds = 0;
    loop {
        carry(&relay).await;
        let again = relay.event("telemetry export recovered");
        if tokio::time::timeout(Duration::from_millis(500), again)
            .await
            .is_ok()
        {
            break;
        }
        rounds += 1;
        assert!(rounds < 20, "{what}: {:#?}", relay.events);
    }
    collector.span("circuit").await;
    let events = relay.stop().await;
    let warnings = events
        .iter()
        .filter(|e| e["level"] == "WARN" && is(e, "telemetry"));
    // One warning is logged per minute.
    let most = 1 + usize::try_from(begin.elapsed().as_secs() / 60).unwrap();
    let warnings = warnings.count();
    assert!((1..=most).contains(&warnings), "{what} {events:#?}");
    let log = format!("{events:?}");
    for secret in [SECRET, "secret-of-the-collector"] {
        assert!(!log.contains(secret), "{what}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn export_resumes_when_the_collector_returns() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let address = collector.address;
        let relay = relay(&endpoint(&collector), protocol, DEFAULT_TIMEOUT_MS).await;
        carry(&relay).await;
        collector.span("circuit").await;
        drop(collector);
        let recover = async || Collector::start_at(address, None).await;
        assert_survived(relay, protocol, recover).await;
    }
}

async fn assert_survived_in(mode: Mode) {
    let timeout = match mode {
        Mode::BlackHole | Mode::Slow(_) => SHORT_TIMEOUT_MS,
        _ => DEFAULT_TIMEOUT_MS,
    };
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        collector.set_mode(mode);
        let relay = relay(&endpoint(&collector), protocol, timeout).await;
        let recover = async || {
            collector.set_mode(Mode::Good);
            collector
        };
        assert_survived(relay, &format!("{mode:?} over {protocol}"), recover).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_responds_with_errors() {
    for mode in [Mode::Status(503), Mode::Status(401), Mode::Garbage] {
        assert_survived_in(mode).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_speaks_another_protocol() {
    assert_survived_in(Mode::Noise).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_does_not_respond() {
    for mode in [Mode::BlackHole, Mode::Slow(Duration::from_secs(2))] {
        assert_survived_in(mode).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_rejected_by_the_collector_are_reported() {
    let collector = Collector::start().await;
    collector.set_mode(Mode::Partial(3));
    let mut relay = relay(&endpoint(&collector), "http/protobuf", DEFAULT_TIMEOUT_MS).await;
    carry(&relay).await;
    let warning = relay.event("telemetry export failed").await;
    let cause = warning["cause"].as_str().unwrap();
    assert!(cause.contains("rejected 3"), "{warning}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn span_exports_have_a_separate_timeout() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        collector.set_mode(Mode::BlackHole);
        let mut relay = Relay::start(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint(&collector)),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "100"),
        ])
        .await;
        carry(&relay).await;
        let begin = Instant::now();
        let warning = relay.event("telemetry export failed").await;
        // The timeout for all exports is 10 s.
        assert!(begin.elapsed() < Duration::from_secs(5), "{protocol}");
        assert_eq!(warning["cause"], "no response within 100 ms", "{protocol}");
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_items_are_reported_at_the_end() {
    let collector = Collector::start().await;
    collector.set_mode(Mode::Status(401));
    let mut relay = relay(&endpoint(&collector), "http/protobuf", DEFAULT_TIMEOUT_MS).await;
    carry(&relay).await;
    relay.event("telemetry export failed").await;
    // Further losses within the same minute are only logged at shutdown.
    carry(&relay).await;
    let events = relay.stop().await;
    let mut last = events.iter().filter(|e| is(e, "not all traces"));
    let warning = last.next().unwrap();
    assert!(warning["lost"].as_u64().unwrap() > 0, "{warning}");
    assert!(last.next().is_none(), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_a_dead_collector() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        collector.set_mode(Mode::BlackHole);
        // The default timeouts, which exceed the shutdown timeout.
        let endpoint = collector.url();
        let mut relay = Relay::start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ])
        .await;
        carry(&relay).await;
        relay.signal(15);
        relay.event("drained").await;
        let drained = Instant::now();
        assert_eq!(relay.exit_code().await, Some(0));
        let seconds = drained.elapsed().as_secs_f64();
        assert!(seconds < 5.0, "{protocol}: {seconds}");
        let gave_up = relay.events.iter().filter(|e| is(e, "not all traces"));
        assert_eq!(gave_up.count(), 1, "{:#?}", relay.events);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_reported() {
    let collector = Collector::start().await;
    collector.set_mode(Mode::Slow(Duration::from_millis(50)));
    let mut relay = Relay::start(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint(&collector)),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "2"),
    ])
    .await;
    let mut client = Raw::new(&relay.tcp()).await;
    for _ in 0..200 {
        assert_status(&client.reserve().await, Status::Ok);
    }
    let warning = relay.event("telemetry lost").await;
    assert_eq!(warning["level"], "WARN");
    assert!(warning["lost"].as_u64().unwrap() > 0, "{warning}");
    let events = relay.stop().await;
    let warnings = events.iter().filter(|e| is(e, "telemetry"));
    assert_eq!(warnings.count(), 1, "{events:#?}");
}

/// Number of requests whose spans are not exported.
const REQUESTS: u64 = 6000;

#[tokio::test(flavor = "multi_thread")]
async fn unexported_spans_do_not_accumulate() {
    let (bad, good) = (Collector::start().await, Collector::start().await);
    bad.set_mode(Mode::BlackHole);
    let (traces, metrics) = (endpoint(&bad), format!("{}/v1/metrics", good.url()));
    let relay = Relay::start(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &traces),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &metrics),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "256"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("RELAY_RATE_CIRCUITS_PER_PEER", "0"),
    ])
    .await;
    let mut client = Raw::new(&relay.tcp()).await;
    // Renewals would be delayed by their rate limit.
    let target = libp2p::PeerId::random();
    let mut connect = async |times: u64| {
        for _ in 0..times {
            assert_status(&client.connect(target).await.0, Status::NoReservation);
        }
    };
    connect(1000).await;
    let before = relay.used_bytes();
    connect(REQUESTS - 1000).await;
    let grown = relay.used_bytes().saturating_sub(before);
    assert!(grown < 4 * 1024 * 1024, "{grown} bytes more");

    // Every lost span is counted.
    bad.set_mode(Mode::Good);
    good.wait("all spans to be counted", |received| {
        let lost = received.latest("relay.telemetry.lost", &[("signal", "traces")])?;
        let arrived =
            bad.look(|received| received.spans().filter(|s| s.name == "hop.connect").count());
        let all = u64::try_from(lost).unwrap() + u64::try_from(arrived).unwrap();
        assert!(all <= REQUESTS, "{lost} lost, {arrived} arrived");
        (all == REQUESTS && arrived > 0).then_some(())
    })
    .await;
    for outcome in ["success", "failure"] {
        let attributes = [("signal", "traces"), ("outcome", outcome)];
        good.wait(outcome, |received| {
            let exports = received.latest("relay.telemetry.exports", &attributes);
            (exports > Some(0)).then_some(())
        })
        .await;
    }
    relay.stop().await;
}
