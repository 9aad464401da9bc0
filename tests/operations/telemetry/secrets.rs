//! Export headers are secrets, and do not appear in any log.

use test_support::{
    collector::Collector,
    process::{Relay, command},
};

use crate::telemetry::{circuit::carry, wire::PROTOCOLS};

const HEADERS: (&str, &str) = (
    "OTEL_EXPORTER_OTLP_HEADERS",
    "authorization=Bearer%20hunter2,x-key=hunter3",
);

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_not_logged() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let endpoint = format!("http://user:hunter4@{}", collector.address);
        let relay = Relay::start(&[
            HEADERS,
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "hunter5"),
            // The URL credentials result in the authorization header.
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-key=hunter6"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            // The most detailed logs of the relay and the HTTP libraries.
            (
                "RUST_LOG",
                "info,descord_relay=trace,opentelemetry=trace,opentelemetry_sdk=trace,\
   opentelemetry_otlp=trace,tonic=trace,tower=trace,reqwest=trace,rustls=trace,\
                 hyper=trace,hyper_util=trace,h2=trace",
            ),
        ])
        .await;
        carry(&relay).await;
        collector.span("circuit").await;
        collector
            .wait("metrics", |r| r.metrics.first().map(|_| ()))
            .await;
        drop(collector);
        let events = relay.stop().await;
        let log = format!("{events:?}");
        assert!(!log.contains("hunter"), "{log}");
        assert!(!log.contains("dXNlcjpodW50ZXI0"), "{log}");
        // The libraries that write the requests have logged.
        let writer = if protocol == "grpc" { "h2::" } else { "hyper" };
        let is_heard = |event: &serde_json::Value| {
            let target = event["target"].as_str();
            target.is_some_and(|target| target.starts_with(writer))
        };
        assert!(events.iter().any(is_heard), "{writer}");
    }
}

#[tokio::test]
async fn the_configuration_shows_no_header() {
    let output = command(&[HEADERS]).arg("config").output().await.unwrap();
    assert!(output.status.success());
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains("hunter"), "{text}");
}
