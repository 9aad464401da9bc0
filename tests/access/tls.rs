//! An endpoint that proves who it is.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::*;
use crate::{
    decider::{Decider, Mood},
    support::process::command,
};

/// An authority as a file, and what it has certified.
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
        let pki = Self { directory, issuer };
        std::fs::write(pki.path(), pki.issuer.pem()).unwrap();
        pki
    }

    fn path(&self) -> String {
        let path: &Path = self.directory.path();
        path.join("ca.pem").to_str().unwrap().to_owned()
    }

    /// A server for 127.0.0.1.
    fn server(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_endpoint_that_can_be_believed_is_asked() {
    let (ours, other) = (Pki::new(), Pki::new());
    for (trusted, status) in [
        (Some(ours.path()), Status::Ok),
        (Some(other.path()), Status::PermissionDenied),
        (None, Status::PermissionDenied),
    ] {
        let loopback = ([127, 0, 0, 1], 0).into();
        let decider = Decider::start_at(loopback, Mood::Allow, Some(ours.server())).await;
        let url = format!("https://{}/", decider.address);
        let certificate = trusted.unwrap_or_default();
        let relay = Relay::start(&[
            ("RELAY_ACCESS_URL", &url),
            ("RELAY_ACCESS_CERTIFICATE", &certificate),
        ])
        .await;
        let mut peer = Raw::new(&relay.tcp()).await;
        assert_status(&peer.reserve().await, status);
        assert_eq!(decider.questions().is_empty(), status != Status::Ok);
        relay.stop().await;
    }
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, "no certificate").unwrap();
    let missing = directory.path().join("missing");
    for path in [&path, &missing] {
        let output = command(&[
            ("RELAY_ACCESS_URL", "https://127.0.0.1:1/"),
            ("RELAY_ACCESS_CERTIFICATE", path.to_str().unwrap()),
        ])
        .output();
        let output = tokio::time::timeout(PATIENCE, output)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(output.status.code(), Some(64));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("RELAY_ACCESS_CERTIFICATE: "), "{error}");
    }
}
