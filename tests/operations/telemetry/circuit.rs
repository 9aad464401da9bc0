//! The exported spans and metrics of a circuit.

use futures::AsyncWriteExt;
use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::Span};
use test_support::{
    collector::{Collector, attribute, integer, text},
    process::Relay,
    raw::{Circuit, Raw, pattern, read_out},
};

const TO_TARGET: usize = 70_000;
const TO_SOURCE: usize = 9_000;

/// A relay with short export intervals.
pub async fn relay(collector: &Collector, variables: &[(&str, &str)]) -> Relay {
    let endpoint = collector.url();
    let mut all = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ];
    all.extend(variables);
    Relay::start(&all).await
}

/// Forwards bytes both ways through a circuit from QUIC to TCP, and ends it.
pub async fn carry(relay: &Relay) {
    let source = Raw::new(&relay.quic()).await;
    let target = Raw::new(&relay.tcp()).await;
    let mut circuit = Circuit::between(source, target).await;
    let (near, far) = (&mut circuit.near, &mut circuit.far);
    near.write_all(&pattern(TO_TARGET)).await.unwrap();
    near.close().await.unwrap();
    assert_eq!(read_out(far).await.0.len(), TO_TARGET);
    far.write_all(&pattern(TO_SOURCE)).await.unwrap();
    far.close().await.unwrap();
    assert_eq!(read_out(near).await.0.len(), TO_SOURCE);
}

fn is_child(child: &Span, parent: &Span) -> bool {
    child.trace_id == parent.trace_id && child.parent_span_id == parent.span_id
}

async fn assert_exported_over(protocol: &str) {
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("RELAY_INSTANCE", "relay-7"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=relay-7%2C,a=b"),
    ];
    let mut relay = relay(&collector, &variables).await;
    carry(&relay).await;
    relay.event("circuit closed").await;

    let reserve = &collector.span("hop.reserve").await;
    assert_eq!(text(&reserve.attributes, "relay.outcome"), Some("accepted"));
    assert_eq!(text(&reserve.attributes, "relay.transport"), Some("tcp"));
    let connect = &collector.span("hop.connect").await;
    let stop = &collector.span("stop.connect").await;
    let circuit = &collector.span("circuit").await;
    assert!(is_child(stop, connect) && is_child(circuit, connect));
    assert_ne!(reserve.trace_id, connect.trace_id);
    let circuit = &circuit.attributes;
    let bytes = |key| usize::try_from(integer(circuit, key).unwrap()).unwrap();
    assert_eq!(bytes("relay.bytes_to_target"), TO_TARGET);
    assert_eq!(bytes("relay.bytes_to_source"), TO_SOURCE);
    assert_eq!(text(circuit, "relay.reason"), Some("eof"));
    assert_eq!(text(circuit, "relay.source_transport"), Some("quic"));
    assert_eq!(text(circuit, "relay.target_transport"), Some("tcp"));
    assert!(matches!(
        attribute(circuit, "relay.duration"),
        Some(Value::DoubleValue(seconds)) if *seconds > 0.0
    ));

    for (direction, bytes) in [("to_target", TO_TARGET), ("to_source", TO_SOURCE)] {
        let attributes = [
            ("direction", direction),
            ("source_transport", "quic"),
            ("target_transport", "tcp"),
        ];
        let bytes = i64::try_from(bytes).unwrap();
        collector
            .wait("bytes", |received| {
                (received.latest("relay.circuit.io", &attributes) == Some(bytes)).then_some(())
            })
            .await;
    }
    collector.look(|received| {
        for resource in received.resources() {
            let is = |key, value| assert_eq!(text(&resource.attributes, key), Some(value), "{key}");
            is("service.name", "descord-relay");
            is("service.version", env!("CARGO_PKG_VERSION"));
            is("service.instance.id", "relay-7");
            is("k8s.pod.name", "relay-7,");
            is("a", "b");
            is("telemetry.sdk.language", "rust");
        }
    });

    // Shutdown flushes pending spans and metrics.
    relay.stop().await;
    let drain = collector.look(|received| received.spans().find(|s| s.name == "drain").cloned());
    let drain = drain.unwrap();
    assert_eq!(integer(&drain.attributes, "relay.circuits"), Some(0));
    assert_eq!(integer(&drain.attributes, "relay.circuits_cut"), Some(0));
    for phase in ["drain.delay", "drain.wait", "drain.cut"] {
        let phase = collector.span(phase).await;
        assert!(is_child(&phase, &drain), "{phase:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn circuit_is_exported_over_http() {
    assert_exported_over("http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuit_is_exported_over_grpc() {
    assert_exported_over("grpc").await;
}
