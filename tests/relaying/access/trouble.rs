//! Access endpoints that fail. Expected: the relay applies the configured policy within the timeout, and
//! other clients are not affected.

use std::time::Instant;

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use test_support::{
    auth_server::{AuthServer, Mode},
    process::is,
    raw::Circuit,
};

use super::*;
use crate::access::endpoint::{reserved_on, start};

const DECISIONS: &str = "relay_access_decision_duration_seconds_count";

/// Faults of the endpoint, with the logged cause and the metric outcome.
fn faults() -> [(Mode, &'static str, &'static str); 10] {
    [
        (Mode::Status(500), "the response is 500", "invalid"),
        (Mode::Status(403), "the response is 403", "invalid"),
        (Mode::Status(204), "the response is 204", "invalid"),
        (Mode::Text("yes"), "the response is not JSON", "invalid"),
        (
            Mode::Text(r#"{"allow":"yes"}"#),
            "the response is not JSON",
            "invalid",
        ),
        (Mode::Huge, "the response is too long", "invalid"),
        (Mode::Endless, "the response is too long", "invalid"),
        (Mode::Hang, "no answer in time", "timeout"),
        (Mode::Noise, "", "unreachable"),
        (Mode::Close, "", "unreachable"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_applies_when_the_endpoint_fails() {
    for (policy, status) in [
        ("fail-closed", Status::PermissionDenied),
        ("fail-open", Status::Ok),
    ] {
        let all = faults().map(async |(mode, cause, outcome)| {
            let auth_server = AuthServer::start(mode.clone()).await;
            let variables = [
                ("RELAY_ACCESS_ON_ERROR", policy),
                ("RELAY_ACCESS_TIMEOUT", "500ms"),
            ];
            let mut relay = start(&auth_server, &variables).await;
            // A renewal on the same connection would reuse the previous decision.
            let key = Keypair::generate_ed25519();
            let mut connections = Vec::new();
            for _ in 0..4 {
                connections.push(Raw::with_key(key.clone(), &relay.tcp()).await);
            }
            for connection in &mut connections[..3] {
                assert_status(&connection.reserve().await, status);
            }
            let warning = relay.event("access endpoint unavailable").await;
            assert_eq!(warning["level"], "WARN", "{warning}");
            assert_eq!(warning["policy"], policy, "{warning}");
            let logged = warning["cause"].as_str().unwrap();
            assert!(
                logged.starts_with(cause) && !logged.is_empty(),
                "{mode:?}: {warning}"
            );
            // A failure is not cached as a decision.
            wait_for_metric(&relay, DECISIONS, &[("outcome", outcome)], 3.0).await;
            auth_server.set_mode(Mode::Allow);
            assert_status(&connections[3].reserve().await, Status::Ok);
            relay.event("access endpoint recovered").await;
            let events = relay.stop().await;
            let warnings = events.iter().filter(|e| e["level"] == "WARN");
            let warnings: Vec<_> = warnings
                .filter(|e| is(e, "access endpoint unavailable"))
                .collect();
            assert_eq!(warnings.len(), 1, "{warnings:#?}");
            let refused = events.iter().filter(|e| is(e, "request denied"));
            for refused in refused {
                assert_eq!(refused["reason"], "access_unavailable", "{refused}");
                assert_eq!(refused["rule"], "fail-closed", "{refused}");
            }
        });
        join_all(all).await;
    }
}

/// Servers close idle keep-alive connections, sometimes at the moment of their reuse.
#[tokio::test(flavor = "multi_thread")]
async fn stale_keep_alive_connections_are_retried() {
    let auth_server = AuthServer::start(Mode::Once).await;
    let relay = start(&auth_server, &[("RELAY_ACCESS_CACHE_TTL", "0")]).await;
    let _connections = reserved_on(5, &relay).await;
    wait_for_metric(&relay, DECISIONS, &[("outcome", "allowed")], 5.0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_and_proxies_are_not_followed() {
    let other = AuthServer::start(Mode::Allow).await;
    let auth_server = AuthServer::start(Mode::Redirect(other.url())).await;
    // The relay ignores proxy variables.
    let proxy = format!("http://{}", other.address);
    let mut relay = start(
        &auth_server,
        &[
            ("RELAY_ACCESS_TOKEN", "hunter2"),
            ("HTTP_PROXY", &proxy),
            ("http_proxy", &proxy),
            ("ALL_PROXY", &proxy),
        ],
    )
    .await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let denied = assert_refused(&mut relay, &mut peer).await;
    assert_eq!(denied["reason"], "access_unavailable", "{denied}");
    assert_eq!(auth_server.requests().len(), 1);
    assert_eq!(other.requests().len(), 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_endpoint_denies_as_unavailable() {
    let gone = AuthServer::start(Mode::Allow).await;
    let url = gone.url();
    drop(gone);
    let mut relay = Relay::start(&[("RELAY_ACCESS_URL", &url)]).await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let denied = assert_refused(&mut relay, &mut peer).await;
    assert_eq!(denied["reason"], "access_unavailable", "{denied}");
    let events = relay.stop().await;
    let warning = events.iter().find(|e| is(e, "access endpoint unavailable"));
    // The warning contains neither the endpoint's address nor the content of the request.
    let warning = warning.unwrap().to_string();
    assert!(
        warning.contains("refused") && !warning.contains("tenant"),
        "{warning}"
    );
}

/// Requests beyond the concurrency limit wait, and are decided within the timeout.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_time_out() {
    let auth_server = AuthServer::start(Mode::Hang).await;
    let relay = start(
        &auth_server,
        &[
            ("RELAY_ACCESS_CONCURRENCY", "1"),
            ("RELAY_ACCESS_TIMEOUT", "2s"),
            // By default, requests from one address wait for each other.
            ("RELAY_PREFIX_SHARES", "127.0.0.0/8=100%"),
        ],
    )
    .await;
    let address = relay.tcp();
    let begin = Instant::now();
    let peers = (0..8).map(async |_| Raw::new(&address).await.reserve().await);
    for answer in join_all(peers).await {
        assert_status(&answer, Status::PermissionDenied);
    }
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "requests time out one after the other"
    );
    wait_for_metric(&relay, DECISIONS, &[("outcome", "overloaded")], 7.0).await;
    wait_for_metric(&relay, DECISIONS, &[("outcome", "timeout")], 1.0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_circuits_and_shutdown_do_not_wait_for_a_decision() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let mut relay = start(
        &auth_server,
        &[
            ("RELAY_ACCESS_TIMEOUT", "10s"),
            ("RELAY_ACCESS_CACHE_TTL", "0"),
            ("RELAY_DRAIN_TIMEOUT", "1h"),
        ],
    )
    .await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    auth_server.set_mode(Mode::Hang);
    let asked = auth_server.requests().len();
    let mut waiting = Raw::new(&relay.tcp()).await;
    let begin = Instant::now();
    let waits = async { waiting.reserve().await };
    tokio::select! {
        _ = waits => panic!("the request completed without a decision"),
        () = auth_server.wait_for_requests(asked + 1) => {}
    }
    for _ in 0..100 {
        circuit.near.write_all(b"ping").await.unwrap();
        let mut read = [0; 4];
        circuit.far.read_exact(&mut read).await.unwrap();
    }
    let mut new_client = Raw::new(&relay.quic()).await;
    drop(new_client.hop().await);
    relay.signal(15);
    relay.event("draining").await;
    relay.signal(15);
    assert_eq!(relay.exit_code().await, Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited");
}
