//! An access endpoint that responds: the content of requests, the decision cache, and request limits.

use std::time::Instant;

use axum::http::Method;
use futures::{AsyncWriteExt, future::join_all};
use libp2p::PeerId;
use serde_json::json;
use test_support::{
    auth_server::{AuthServer, Mode},
    forward::{Forward, header, loopback},
    raw::{Circuit, connect},
};

use super::*;

const TOKEN: &str = "hunter2-hunter2";
const DECISIONS: &str = "relay_access_decision_duration_seconds_count";
const LOOKUPS: &str = "relay_access_cache_lookups_total";

pub(crate) async fn start(auth_server: &AuthServer, more: &[(&str, &str)]) -> Relay {
    let url = auth_server.url();
    let variables = [
        ("RELAY_ACCESS_URL", url.as_str()),
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
    ];
    Relay::start(&[&variables, more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_receives_the_request_and_decides() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let mut relay = start(&auth_server, &[("RELAY_ACCESS_TOKEN", TOKEN)]).await;
    let circuit =
        Circuit::between(Raw::new(&relay.quic()).await, Raw::new(&relay.tcp()).await).await;
    let (source, target) = (circuit.source.peer_id, circuit.target.peer_id);
    let (source, target) = (source.to_string(), target.to_string());
    let relay_id = relay.peer_id.to_string();
    let requests = auth_server.requests();
    let bodies: Vec<_> = requests.iter().map(|q| &q.body).collect();
    assert_eq!(
        bodies,
        [
            &json!({
                "question": "reserve", "peer": target, "ip": "127.0.0.1",
                "transport": "tcp", "relay": relay_id,
            }),
            &json!({
                "question": "connect", "peer": source, "ip": "127.0.0.1", "transport": "quic",
                "target": target, "relay": relay_id,
            }),
        ]
    );
    for request in &requests {
        assert_eq!(request.method, Method::POST);
        assert_eq!(request.path, "/decide?tenant=7");
        assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!(request.headers["content-type"], "application/json");
    }

    auth_server.set_mode(Mode::Rule("not-a-member"));
    let mut unlisted = Raw::new(&relay.tcp()).await;
    let denied = assert_refused(&mut relay, &mut unlisted).await;
    assert_eq!(denied["reason"], "access_decision", "{denied}");
    assert_eq!(denied["rule"], "RELAY_ACCESS_URL, not-a-member", "{denied}");
    auth_server.set_mode(Mode::Deny);
    let denied = assert_circuit_refused(&mut relay, &mut unlisted, PeerId::random()).await;
    assert_eq!(denied["rule"], "RELAY_ACCESS_URL", "{denied}");
    wait_for_metric(&relay, DECISIONS, &[("outcome", "allowed")], 2.0).await;
    wait_for_metric(&relay, DECISIONS, &[("outcome", "denied")], 2.0).await;
    let events = relay.stop().await;
    assert!(
        events
            .iter()
            .all(|event| !event.to_string().contains(TOKEN))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_take_precedence_over_the_endpoint() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let mut relay = start(&auth_server, &[("RELAY_ACCESS_RESERVE_DENY", "127.0.0.1")]).await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let denied = assert_refused(&mut relay, &mut peer).await;
    assert_eq!(denied["reason"], "access_rules", "{denied}");
    assert_eq!(auth_server.requests().len(), 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decision_is_cached_for_its_ttl_and_request() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let relay = start(&auth_server, &[("RELAY_ACCESS_CACHE_TTL", "2s")]).await;
    let begin = Instant::now();
    let mut connections = reserved_on(5, &relay).await;
    // A slower machine may exceed the TTL.
    if begin.elapsed() < Duration::from_secs(2) {
        assert_eq!(auth_server.requests().len(), 1);
        wait_for_metric(&relay, LOOKUPS, &[("outcome", "hit")], 4.0).await;
        wait_for_metric(&relay, LOOKUPS, &[("outcome", "miss")], 1.0).await;
    }
    let peer = connections.last_mut().unwrap();
    let mut other = Raw::new(&relay.tcp()).await;
    auth_server.set_mode(Mode::Deny);
    assert_status(&other.reserve().await, Status::PermissionDenied);
    let (answer, _) = peer.connect(other.peer_id).await;
    assert_status(&answer, Status::PermissionDenied);
    // The decision expires after its TTL.
    let forgotten = tokio::time::timeout(PATIENCE, async {
        while peer.reserve().await.status != Some(Status::PermissionDenied.into()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    forgotten.await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_not_cached_when_the_cache_is_off() {
    for variable in ["RELAY_ACCESS_CACHE_TTL", "RELAY_ACCESS_CACHE_CAPACITY"] {
        let auth_server = AuthServer::start(Mode::Allow).await;
        let relay = start(&auth_server, &[(variable, "0")]).await;
        let _connections = reserved_on(3, &relay).await;
        assert_eq!(auth_server.requests().len(), 3);
        relay.stop().await;
    }
}

/// A peer with this many connections, each of which has requested the endpoint's decision on the
/// reservation.
pub(crate) async fn reserved_on(connections: usize, relay: &Relay) -> Vec<Raw> {
    let key = Keypair::generate_ed25519();
    let mut reserved = Vec::new();
    for _ in 0..connections {
        let mut peer = Raw::with_key(key.clone(), &relay.tcp()).await;
        assert_status(&peer.reserve().await, Status::Ok);
        reserved.push(peer);
    }
    reserved
}

/// A recent decision is reused for renewals, even without a cache.
#[tokio::test(flavor = "multi_thread")]
async fn renewals_reuse_recent_decisions() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let relay = start(&auth_server, &[("RELAY_ACCESS_CACHE_TTL", "0")]).await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let begin = Instant::now();
    for _ in 0..100 {
        assert_status(&peer.reserve().await, Status::Ok);
    }
    let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap();
    let requests = auth_server.requests().len();
    assert!(
        requests <= 1 + seconds / 5,
        "{requests} requests in {seconds} s"
    );
    relay.stop().await;
}

/// Requests of one peer share a part of the concurrency limit, and the endpoint never gets more requests
/// than the limit.
#[tokio::test(flavor = "multi_thread")]
async fn many_requests_of_one_peer_do_not_delay_others() {
    const CONCURRENCY: usize = 16;
    const TIMEOUT: Duration = Duration::from_secs(5);
    let auth_server = AuthServer::start(Mode::Hang).await;
    let relay = start(
        &auth_server,
        &[
            ("RELAY_ACCESS_CONCURRENCY", &CONCURRENCY.to_string()),
            (
                "RELAY_ACCESS_TIMEOUT",
                &humantime::format_duration(TIMEOUT).to_string(),
            ),
            ("RELAY_ACCESS_ON_ERROR", "fail-open"),
        ],
    )
    .await;
    let begin = Instant::now();
    let mut flooder = Raw::new(&relay.tcp()).await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut stream = flooder.hop().await;
        let request = connect(&PeerId::random().to_bytes());
        stream.write_all(&request).await.unwrap();
        stream.flush().await.unwrap();
        streams.push(stream);
    }
    auth_server.wait_for_requests(CONCURRENCY / 8).await;
    auth_server.set_mode(Mode::Allow);
    let mut other = Raw::new(&relay.tcp()).await;
    assert_status(&other.reserve().await, Status::Ok);
    // After the timeout, the endpoint may still process requests that the relay has abandoned and
    // replaced.
    assert!(begin.elapsed() < TIMEOUT);
    assert!(
        auth_server.peak() <= CONCURRENCY / 8 + 1,
        "{}",
        auth_server.peak()
    );
    auth_server.set_mode(Mode::Hang);
    // Requests sent to the endpoint time out and are granted by `fail-open`. Requests that waited for the
    // peer's own share are denied.
    let answers = join_all(streams.iter_mut().map(circuit_relay::wire::read));
    let answers: Vec<circuit_relay::wire::HopMessage> = tokio::time::timeout(PATIENCE, answers)
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let with = |status: Status| {
        let of = |answer: &&circuit_relay::wire::HopMessage| answer.status == Some(status.into());
        answers.iter().filter(of).count()
    };
    assert_eq!(
        with(Status::NoReservation) + with(Status::PermissionDenied),
        40
    );
    assert!(with(Status::PermissionDenied) > 0);
    let busy = [("request", "connect"), ("reason", "access_busy")];
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let denied = with(Status::PermissionDenied) as f64;
    wait_for_metric(&relay, "relay_hop_requests_total", &busy, denied).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_limited() {
    let auth_server = AuthServer::start(Mode::Slow(Duration::from_millis(100))).await;
    let relay = start(
        &auth_server,
        &[
            ("RELAY_ACCESS_CONCURRENCY", "2"),
            ("RELAY_ACCESS_TIMEOUT", "10s"),
            // By default, one address may use one of the two.
            ("RELAY_PREFIX_SHARES", "127.0.0.0/8=100%"),
        ],
    )
    .await;
    let address = relay.tcp();
    let peers = (0..12).map(async |_| Raw::new(&address).await.reserve().await);
    for answer in join_all(peers).await {
        assert_status(&answer, Status::Ok);
    }
    assert_eq!(auth_server.peak(), 2);
    assert_eq!(auth_server.requests().len(), 12);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_concurrent_requests_are_coalesced() {
    const REQUESTS: usize = 8;
    let auth_server = AuthServer::start(Mode::Held).await;
    let variables = [
        ("RELAY_ACCESS_CACHE_TTL", "0"),
        ("RELAY_ACCESS_TIMEOUT", "10s"),
    ];
    let relay = start(&auth_server, &variables).await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let target = PeerId::random();
    let mut streams = Vec::new();
    for _ in 0..REQUESTS {
        let mut stream = peer.hop().await;
        let request = connect(&target.to_bytes());
        stream.write_all(&request).await.unwrap();
        stream.flush().await.unwrap();
        streams.push(stream);
    }
    auth_server.wait_for_requests(1).await;
    auth_server.set_mode(Mode::Allow);
    let answers = join_all(streams.iter_mut().map(circuit_relay::wire::read));
    let answers: Vec<Result<circuit_relay::wire::HopMessage, _>> =
        tokio::time::timeout(PATIENCE, answers).await.unwrap();
    for answer in answers {
        assert_status(&answer.unwrap(), Status::NoReservation);
    }
    // A request that arrives after the first response is not coalesced.
    let asked = auth_server.requests().len();
    assert!(asked < REQUESTS, "{asked}");
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let shared = (REQUESTS - asked) as f64;
    wait_for_metric(&relay, LOOKUPS, &[("outcome", "coalesced")], shared).await;
    relay.stop().await;
}

/// Renewals do not count as new reservations, and nothing is cached, so each could cause a request.
#[tokio::test(flavor = "multi_thread")]
async fn one_peer_cannot_flood_the_endpoint() {
    const BURST: usize = 128;
    const RATE: usize = 4;
    let auth_server = AuthServer::start(Mode::Allow).await;
    let relay = start(&auth_server, &[("RELAY_ACCESS_CACHE_TTL", "0")]).await;
    let address = relay.tcp();
    let begin = Instant::now();
    let flood = async {
        let mut flooder = Raw::new(&address).await;
        for _ in 0..2 * BURST {
            if begin.elapsed() > Duration::from_secs(5) {
                break;
            }
            assert_status(&flooder.reserve().await, Status::Ok);
        }
        flooder.peer_id.to_string()
    };
    let others = async {
        for _ in 0..10 {
            let mut other = Raw::new(&address).await;
            assert_status(&other.reserve().await, Status::Ok);
        }
    };
    let (flooder, ()) = tokio::join!(flood, others);
    let of_flooder =
        |request: &test_support::auth_server::AuthRequest| request.body["peer"] == flooder;
    let asked = auth_server
        .requests()
        .into_iter()
        .filter(of_flooder)
        .count();
    let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap();
    let most = BURST + RATE * (seconds + 1);
    assert!(
        (1..=most).contains(&asked),
        "{asked} requests, at most {most}"
    );
    relay.stop().await;
}

/// Peer ids are free, so the share applies to the address. One with many peers does not delay others.
#[tokio::test(flavor = "multi_thread")]
async fn address_with_many_peers_is_limited_to_its_share() {
    const CONCURRENCY: usize = 8;
    let auth_server = AuthServer::start(Mode::Held).await;
    let variables = [
        ("RELAY_ACCESS_CONCURRENCY", CONCURRENCY.to_string()),
        ("RELAY_ACCESS_TIMEOUT", "10s".to_owned()),
        ("RELAY_TRUSTED_PROXIES", "127.0.0.2".to_owned()),
    ];
    let relay = start(
        &auth_server,
        &variables.each_ref().map(|(n, v)| (*n, v.as_str())),
    )
    .await;
    let at = async |ip: &str| {
        let header = header(&format!("{ip}:4001"));
        Forward::start(&relay.tcp(), loopback(2), header).await
    };
    let (crowded, other) = (at("192.0.2.1").await, at("192.0.2.2").await);
    let (crowded, other) = (crowded.address(), other.address());
    let crowd = (0..3 * CONCURRENCY).map(async |_| Raw::new(&crowded).await.reserve().await);
    let crowd = join_all(crowd);
    let asked = async {
        auth_server.wait_for_requests(CONCURRENCY / 4).await;
        let mut peer = Raw::new(&other).await;
        let waits = async { peer.reserve().await };
        let other_is_queried = async {
            auth_server.wait_for_requests(CONCURRENCY / 4 + 1).await;
            let last = auth_server.requests().pop().unwrap();
            assert_eq!(last.body["ip"], "192.0.2.2");
            auth_server.set_mode(Mode::Allow);
        };
        tokio::join!(waits, other_is_queried).0
    };
    let (crowd, other) = tokio::join!(crowd, asked);
    assert_status(&other, Status::Ok);
    for answer in crowd {
        assert_status(&answer, Status::Ok);
    }
    assert!(
        auth_server.peak() <= CONCURRENCY / 4 + 1,
        "{}",
        auth_server.peak()
    );
    relay.stop().await;
}
