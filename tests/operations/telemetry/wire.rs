//! The effect of telemetry variables on exported requests.

use std::process::Stdio;

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use test_support::{
    PATIENCE,
    collector::{Collector, integer, text},
    process::{Relay, command, is, kill},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::telemetry::circuit::{carry, relay};

pub const PROTOCOLS: [&str; 2] = ["http/protobuf", "grpc"];

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_the_headers_and_the_compression() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "x-all=1,authorization=Bearer%20a",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
                "authorization=Bearer b",
            ),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ];
        let relay = relay(&collector, &variables).await;
        carry(&relay).await;
        collector.span("circuit").await;
        collector
            .wait("metrics", |r| r.metrics.first().map(|_| ()))
            .await;
        relay.stop().await;
        collector.look(|received| {
            assert!(!received.requests.is_empty());
            for (path, headers) in &received.requests {
                let (expected, all): (_, &[&str]) = if path.to_lowercase().contains("trace") {
                    ("Bearer b", &[])
                } else {
                    ("Bearer a", &["1"])
                };
                let values = |name| headers.get_all(name).iter().collect::<Vec<_>>();
                assert_eq!(values("authorization"), [expected], "{path} {headers:?}");
                assert_eq!(values("x-all"), all, "{path} {headers:?}");
                let encoding = headers
                    .get("content-encoding")
                    .or(headers.get("grpc-encoding"));
                assert_eq!(encoding.unwrap(), "gzip", "{path} {headers:?}");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_overrides_general_compression() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
        ];
        let relay = relay(&collector, &variables).await;
        carry(&relay).await;
        collector.span("circuit").await;
        collector
            .wait("metrics", |r| r.metrics.first().map(|_| ()))
            .await;
        relay.stop().await;
        collector.look(|received| {
            for (path, headers) in &received.requests {
                let encoding = headers
                    .get("content-encoding")
                    .or(headers.get("grpc-encoding"));
                let is_plain = encoding.is_none_or(|encoding| encoding == "identity");
                let is_trace = path.to_lowercase().contains("trace");
                assert_eq!(is_plain, is_trace, "{path} {headers:?}");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_has_a_separate_endpoint() {
    let (one, other) = (Collector::start().await, Collector::start().await);
    let traces_url = format!("{}/elsewhere", other.url());
    let variables = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces_url.as_str())];
    let relay = relay(&one, &variables).await;
    carry(&relay).await;
    other.span("circuit").await;
    relay.stop().await;
    other.look(|received| {
        assert!(
            received
                .requests
                .iter()
                .all(|(path, _)| path == "/elsewhere")
        );
    });
    one.look(|received| {
        assert!(!received.requests.is_empty());
        assert!(
            received
                .requests
                .iter()
                .all(|(path, _)| path == "/v1/metrics")
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_signals_are_not_sent() {
    let requests = async |variables: &[(&str, &str)]| {
        let collector = Collector::start().await;
        let relay = relay(&collector, variables).await;
        carry(&relay).await;
        // Shutdown flushes pending data.
        relay.stop().await;
        collector.look(|received| {
            let mut paths: Vec<_> = received.requests.iter().map(|(p, _)| p.clone()).collect();
            paths.sort();
            paths.dedup();
            paths
        })
    };
    let nothing: [&str; 0] = [];
    assert_eq!(requests(&[]).await, ["/v1/metrics", "/v1/traces"]);
    assert_eq!(requests(&[("OTEL_SDK_DISABLED", "true")]).await, nothing);
    let traces = ("OTEL_TRACES_EXPORTER", "none");
    assert_eq!(requests(&[traces]).await, ["/v1/metrics"]);
    let metrics = ("OTEL_METRICS_EXPORTER", "prometheus");
    assert_eq!(requests(&[metrics]).await, ["/v1/traces"]);
    let sampler = ("OTEL_TRACES_SAMPLER", "always_off");
    assert_eq!(requests(&[sampler]).await, ["/v1/metrics"]);
    let ratio = [
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
    ];
    assert_eq!(requests(&ratio).await, ["/v1/metrics"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_exporter_without_a_server_is_reported() {
    let prometheus = ("OTEL_METRICS_EXPORTER", "prometheus");
    for (admin, expected) in [("", 1), ("127.0.0.1:0", 0)] {
        let relay = Relay::start(&[prometheus, ("RELAY_ADMIN_ADDRESS", admin)]).await;
        let events = relay.stop().await;
        let warnings = events.iter().filter(|e| is(e, "OTEL_METRICS_EXPORTER"));
        assert_eq!(warnings.count(), expected, "{admin:?} {events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_the_selected_signals() {
    let mut relay = command(&[
        ("RELAY_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/0"),
        ("RELAY_ADMIN_ADDRESS", ""),
        ("RELAY_DRAIN_DELAY", "0"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_METRICS_EXPORTER", "console"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("OTEL_SERVICE_NAME", "shown"),
    ])
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(relay.stdout.take().unwrap()).lines();
    let mut until = async |wanted: &str| {
        let found = timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(wanted) {
                    return;
                }
            }
            panic!("no {wanted:?}");
        });
        found.await.unwrap();
    };
    until("relay ready").await;
    until("Metrics").await;
    until("service.name=String(Owned(\"shown\"))").await;
    until("relay.phase").await;
    kill(15, relay.id().unwrap());
    until("Spans").await;
    until("drain").await;
    assert!(relay.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_names_and_temporality_follow_the_variables() {
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
        ("OTEL_SERVICE_NAME", "named"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=other,service.version=9",
        ),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
    ];
    let relay = relay(&collector, &variables).await;
    carry(&relay).await;
    relay.stop().await;
    collector.look(|received| {
        assert!(received.traces.len() > 3);
        for export in &received.traces {
            let scopes = export.resource_spans.iter().flat_map(|r| &r.scope_spans);
            assert_eq!(scopes.map(|s| s.spans.len()).sum::<usize>(), 1);
        }
        for resource in received.resources() {
            let attributes = &resource.attributes;
            assert_eq!(text(attributes, "service.name"), Some("named"));
            assert_eq!(text(attributes, "service.version"), Some("9"));
        }
        let requests = received.metrics("relay.hop.requests").last().unwrap();
        match &requests.data {
            Some(Data::Sum(sum)) => assert_eq!(sum.aggregation_temporality, 1, "delta"),
            other => panic!("{other:?}"),
        }
    });
}

/// The example of a sampled trace in the W3C recommendation.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Sends a request within the trace; flags `01` mean that it is sampled.
async fn ask(relay: &Relay, path: &str, flags: &str) {
    let mut stream = TcpStream::connect(relay.admin()).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: relay\r\ntraceparent: 00-{TRACE}-{SPAN}-{flags}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_within_a_trace_has_a_span_in_it() {
    let admin = ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0");
    let collector = Collector::start().await;
    let relay = relay(&collector, &[admin]).await;
    ask(&relay, "/status?a=b", "01").await;
    let span = collector.span("GET /status").await;
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(String::new(), |s, b| s + &format!("{b:02x}"))
    };
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), SPAN);
    assert_eq!(text(&span.attributes, "http.request.method"), Some("GET"));
    assert_eq!(text(&span.attributes, "http.route"), Some("/status"));
    let status = integer(&span.attributes, "http.response.status_code");
    assert_eq!(status, Some(200));
    // Unsampled traces and unknown paths result in no span.
    ask(&relay, "/livez", "00").await;
    ask(&relay, "/nowhere", "01").await;
    relay.stop().await;
    let names = |collector: &Collector| {
        let of = |r: &test_support::collector::Received| {
            let names = r.spans().map(|span| span.name.clone());
            names
                .filter(|name| name.starts_with("GET"))
                .collect::<Vec<_>>()
        };
        collector.look(of)
    };
    assert_eq!(names(&collector), ["GET /status"]);

    let collector = Collector::start().await;
    let none = ("OTEL_PROPAGATORS", "none");
    let relay = crate::telemetry::circuit::relay(&collector, &[admin, none]).await;
    ask(&relay, "/status", "01").await;
    relay.stop().await;
    assert_eq!(names(&collector), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_credentials_are_sent() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await;
        let endpoint = format!("http://us%40er:pass@{}", collector.address);
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            // An explicit header takes precedence.
            (
                "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
                "authorization=Bearer%20a",
            ),
        ];
        let relay = relay(&collector, &variables).await;
        carry(&relay).await;
        collector.span("circuit").await;
        collector
            .wait("metrics", |r| r.metrics.first().map(|_| ()))
            .await;
        relay.stop().await;
        collector.look(|received| {
            for (path, headers) in &received.requests {
                let expected = if path.to_lowercase().contains("trace") {
                    "Basic dXNAZXI6cGFzcw=="
                } else {
                    "Bearer a"
                };
                let values: Vec<_> = headers.get_all("authorization").iter().collect();
                assert_eq!(values, [expected], "{protocol} {path}");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_proxies_are_used() {
    let collector = Collector::start().await;
    // Only the proxy can receive requests for this host.
    let proxied = (
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "http://collector.invalid/here",
    );
    let variables = [
        ("NO_PROXY", "127.0.0.1"),
        ("HTTP_PROXY", &collector.url()),
        proxied,
    ];
    let relay = relay(&collector, &variables).await;
    carry(&relay).await;
    collector.span("circuit").await;
    collector
        .wait("a request through the proxy", |received| {
            received
                .requests
                .iter()
                .find(|(path, _)| path == "/here")
                .map(|_| ())
        })
        .await;
    relay.stop().await;
}
