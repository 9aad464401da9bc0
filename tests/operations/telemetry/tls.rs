//! Collectors with TLS and client authentication.

use test_support::{
    collector::Collector,
    pki::Pki,
    process::{Relay, is},
};

use crate::telemetry::{circuit::carry, wire::PROTOCOLS};

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_authenticated() {
    let pki = Pki::generate();
    pki.certify("client");
    for protocol in PROTOCOLS {
        let collector = Collector::with_tls(pki.server()).await;
        let endpoint = format!("https://{}", collector.address);
        let [ca, certificate, key] =
            ["ca.pem", "client.pem", "client.key"].map(|name| pki.path(name));
        let all = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
        ];
        let relay = Relay::start(&all).await;
        carry(&relay).await;
        collector.span("circuit").await;
        relay.stop().await;

        // Without the CA, or without a client certificate, nothing is sent.
        for (left_out, check) in [(5..6, "_CERTIFICATE"), (6..8, "")] {
            let mut variables = all.to_vec();
            variables.drain(left_out);
            let mut relay = Relay::start(&variables).await;
            let before = collector.look(|received| received.requests.len());
            carry(&relay).await;
            let warning = relay.event("telemetry export failed").await;
            assert!(
                warning["check"].as_str().unwrap().contains(check),
                "{warning}"
            );
            assert_eq!(collector.look(|received| received.requests.len()), before);
            relay.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_files_are_reported_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (missing, garbage) = (path("missing"), path("garbage"));
    std::fs::write(&garbage, "garbage").unwrap();
    let endpoint = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://127.0.0.1:1");
    let [certificate, client, key] = ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"];
    for protocol in PROTOCOLS {
        for files in [
            &[(certificate, &missing)][..],
            &[(client, &missing), (key, &missing)],
            &[(client, &garbage), (key, &garbage)],
            &[(key, &garbage)],
        ] {
            let names: Vec<_> = files
                .iter()
                .map(|(name, path)| (format!("OTEL_EXPORTER_OTLP_{name}"), path.as_str()))
                .collect();
            let mut all = vec![endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
            all.extend(names.iter().map(|(name, path)| (name.as_str(), *path)));
            let relay = Relay::start(&all).await;
            carry(&relay).await;
            let events = relay.stop().await;
            let reported = events.iter().filter(|e| is(e, "traces are not exported: "));
            assert_eq!(reported.count(), 1, "{all:?} {events:#?}");
        }
    }
}
