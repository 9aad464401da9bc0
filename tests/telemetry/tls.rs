//! Collectors that speak TLS, and want to know who speaks.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::{
    circuit::carry,
    collector::Collector,
    support::process::{Relay, is},
    wire::PROTOCOLS,
};

/// An authority, and what it has certified, as files.
struct Pki {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        let pki = Self { directory, issuer };
        pki.certify("client");
        pki
    }

    /// The PEM texts of a certificate for 127.0.0.1 and its key, which become files as well.
    fn certify(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        std::fs::write(self.path(&format!("{name}.pem")), &certificate).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), &key).unwrap();
        (certificate, key)
    }

    fn path(&self, name: &str) -> String {
        let path: &Path = self.directory.path();
        path.join(name).to_str().unwrap().to_owned()
    }

    /// A server that asks clients for a certificate of this authority.
    fn server(&self) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (certificate, key) = self.certify("server");
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_prove_who_they_are() {
    let pki = Pki::new();
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

        // Without the authority, and without a certificate of its own, nothing is sent.
        for (left_out, check) in [(5..6, "_CERTIFICATE"), (6..8, "")] {
            let mut variables = all.to_vec();
            variables.drain(left_out);
            let mut relay = Relay::start(&variables).await;
            let before = collector.look(|received| received.requests.len());
            carry(&relay).await;
            let warning = relay.event("telemetry cannot be exported").await;
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
async fn files_that_cannot_be_used_are_told_of_once() {
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
            let told = events.iter().filter(|e| is(e, "traces are not exported: "));
            assert_eq!(told.count(), 1, "{all:?} {events:#?}");
        }
    }
}
