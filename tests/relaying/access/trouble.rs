//! Endpoints that do not decide: the relay does what it was told for that case, in time, and
//! everything else goes on.

use std::time::Instant;

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};

use super::*;
use crate::access::endpoint::{reserved_on, start};
use test_support::{
    auth_server::{AuthServer, Mode},
    process::is,
    raw::Circuit,
};

const DECISIONS: &str = "relay_access_decision_duration_seconds_count";

/// Everything that an endpoint may do wrong, what the log says of it, and what it counts as.
fn troubles() -> [(Mode, &'static str, &'static str); 10] {
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
async fn without_a_decision_requests_are_refused_unless_they_are_to_be_granted() {
    for (policy, status) in [
        ("fail-closed", Status::PermissionDenied),
        ("fail-open", Status::Ok),
    ] {
        let all = troubles().map(async |(mode, cause, outcome)| {
            let auth_server = AuthServer::start(mode.clone()).await;
            let variables = [
                ("RELAY_ACCESS_ON_ERROR", policy),
                ("RELAY_ACCESS_TIMEOUT", "500ms"),
            ];
            let mut relay = start(&auth_server, &variables).await;
            // A renewal on the same connection would repeat what was granted.
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
            let said = warning["cause"].as_str().unwrap();
            assert!(
                said.starts_with(cause) && !said.is_empty(),
                "{mode:?}: {warning}"
            );
            // What is no decision is not remembered.
            has(&relay, DECISIONS, &[("outcome", outcome)], 3.0).await;
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

/// Servers close connections that were idle for long, some just when they are used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_keep_alive_connection_is_no_failure() {
    let auth_server = AuthServer::start(Mode::Once).await;
    let relay = start(&auth_server, &[("RELAY_ACCESS_CACHE_TTL", "0")]).await;
    let _connections = reserved_on(5, &relay).await;
    has(&relay, DECISIONS, &[("outcome", "allowed")], 5.0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_elsewhere() {
    let elsewhere = AuthServer::start(Mode::Allow).await;
    let auth_server = AuthServer::start(Mode::Redirect(elsewhere.url())).await;
    // Nor through a proxy that something else is to go through.
    let proxy = format!("http://{}", elsewhere.address);
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
    let denied = is_refused(&mut relay, &mut peer).await;
    assert_eq!(denied["reason"], "access_unavailable", "{denied}");
    assert_eq!(auth_server.requests().len(), 1);
    assert_eq!(elsewhere.requests().len(), 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_endpoint_denies_as_unavailable() {
    let gone = AuthServer::start(Mode::Allow).await;
    let url = gone.url();
    drop(gone);
    let mut relay = Relay::start(&[("RELAY_ACCESS_URL", &url)]).await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let denied = is_refused(&mut relay, &mut peer).await;
    assert_eq!(denied["reason"], "access_unavailable", "{denied}");
    let events = relay.stop().await;
    let warning = events.iter().find(|e| is(e, "access endpoint unavailable"));
    // Neither the address of the endpoint nor what it was asked.
    let warning = warning.unwrap().to_string();
    assert!(
        warning.contains("refused") && !warning.contains("tenant"),
        "{warning}"
    );
}

/// More questions than the endpoint takes wait, and are refused or granted in their time.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_questions_are_as_good_as_no_answer() {
    let auth_server = AuthServer::start(Mode::Hang).await;
    let relay = start(
        &auth_server,
        &[
            ("RELAY_ACCESS_CONCURRENCY", "1"),
            ("RELAY_ACCESS_TIMEOUT", "2s"),
            // Otherwise those of one address wait for each other.
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
        "they do not wait in turn"
    );
    has(&relay, DECISIONS, &[("outcome", "overloaded")], 7.0).await;
    has(&relay, DECISIONS, &[("outcome", "timeout")], 1.0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_and_the_end_do_not_wait_for_a_decision() {
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
        _ = waits => panic!("nobody has decided"),
        () = auth_server.wait_for_requests(asked + 1) => {}
    }
    for _ in 0..100 {
        circuit.near.write_all(b"ping").await.unwrap();
        let mut read = [0; 4];
        circuit.far.read_exact(&mut read).await.unwrap();
    }
    let mut newcomer = Raw::new(&relay.quic()).await;
    drop(newcomer.hop().await);
    relay.signal(15);
    relay.event("draining").await;
    relay.signal(15);
    assert_eq!(relay.exit_code().await, Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited");
}
