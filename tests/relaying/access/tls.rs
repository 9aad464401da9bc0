//! Authentication of the access endpoint by its TLS certificate.

use test_support::{
    auth_server::{AuthServer, Mode},
    pki::Pki,
    process::command,
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn only_an_endpoint_with_a_trusted_certificate_is_queried() {
    let (ours, other) = (Pki::generate(), Pki::generate());
    for (trusted, status) in [
        (Some(ours.path("ca.pem")), Status::Ok),
        (Some(other.path("ca.pem")), Status::PermissionDenied),
        (None, Status::PermissionDenied),
    ] {
        let loopback = ([127, 0, 0, 1], 0).into();
        let auth_server =
            AuthServer::start_at(loopback, Mode::Allow, Some(ours.open_server())).await;
        let url = format!("https://{}/", auth_server.address);
        let certificate = trusted.unwrap_or_default();
        let relay = Relay::start(&[
            ("RELAY_ACCESS_URL", &url),
            ("RELAY_ACCESS_CA_FILE", &certificate),
        ])
        .await;
        let mut peer = Raw::new(&relay.tcp()).await;
        assert_status(&peer.reserve().await, status);
        assert_eq!(auth_server.requests().is_empty(), status != Status::Ok);
        relay.stop().await;
    }
}

#[tokio::test]
async fn unusable_certificates_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, "no certificate").unwrap();
    let missing = directory.path().join("missing");
    for path in [&path, &missing] {
        let output = command(&[
            ("RELAY_ACCESS_URL", "https://127.0.0.1:1/"),
            ("RELAY_ACCESS_CA_FILE", path.to_str().unwrap()),
        ])
        .output();
        let output = tokio::time::timeout(PATIENCE, output)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(output.status.code(), Some(64));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("RELAY_ACCESS_CA_FILE: "), "{error}");
    }
}
