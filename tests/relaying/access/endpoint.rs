//! An endpoint that decides: its requests, the cache of its decisions, and the limits of requests.

use std::time::Instant;

use axum::http::Method;
use futures::{AsyncWriteExt, future::join_all};
use libp2p::PeerId;
use serde_json::json;

use super::*;
use test_support::{
    auth_server::{AuthServer, Mode},
    forward::{Forward, header, loopback},
    raw::{Circuit, connect},
};

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
async fn the_endpoint_receives_the_whole_request_and_decides_it() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let mut relay = start(&auth_server, &[("RELAY_ACCESS_TOKEN", TOKEN)]).await;
    let circuit =
        Circuit::between(Raw::new(&relay.quic()).await, Raw::new(&relay.tcp()).await).await;
    let (source, target) = (circuit.source.peer_id, circuit.target.peer_id);
    let (source, target) = (source.to_string(), target.to_string());
    let relay_id = relay.peer_id.to_string();
    let questions = auth_server.requests();
    let bodies: Vec<_> = questions.iter().map(|q| &q.body).collect();
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
    for question in &questions {
        assert_eq!(question.method, Method::POST);
        assert_eq!(question.path, "/decide?tenant=7");
        assert_eq!(question.headers["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!(question.headers["content-type"], "application/json");
    }

    auth_server.set_mode(Mode::Rule("not-a-member"));
    let mut stranger = Raw::new(&relay.tcp()).await;
    let denied = is_refused(&mut relay, &mut stranger).await;
    assert_eq!(denied["reason"], "access_decision", "{denied}");
    assert_eq!(denied["rule"], "RELAY_ACCESS_URL, not-a-member", "{denied}");
    auth_server.set_mode(Mode::Deny);
    let denied = is_refused_to(&mut relay, &mut stranger, PeerId::random()).await;
    assert_eq!(denied["rule"], "RELAY_ACCESS_URL", "{denied}");
    has(&relay, DECISIONS, &[("outcome", "allowed")], 2.0).await;
    has(&relay, DECISIONS, &[("outcome", "denied")], 2.0).await;
    let events = relay.stop().await;
    assert!(
        events
            .iter()
            .all(|event| !event.to_string().contains(TOKEN))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_come_first() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let mut relay = start(&auth_server, &[("RELAY_ACCESS_RESERVE_DENY", "127.0.0.1")]).await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let denied = is_refused(&mut relay, &mut peer).await;
    assert_eq!(denied["reason"], "access_rules", "{denied}");
    assert_eq!(auth_server.requests().len(), 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_remembered_for_its_time_and_for_its_question() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let relay = start(&auth_server, &[("RELAY_ACCESS_CACHE_TTL", "2s")]).await;
    let begin = Instant::now();
    let mut connections = reserved_on(5, &relay).await;
    // Unless this machine is slower than that.
    if begin.elapsed() < Duration::from_secs(2) {
        assert_eq!(auth_server.requests().len(), 1);
        has(&relay, LOOKUPS, &[("outcome", "hit")], 4.0).await;
        has(&relay, LOOKUPS, &[("outcome", "miss")], 1.0).await;
    }
    let peer = connections.last_mut().unwrap();
    let mut other = Raw::new(&relay.tcp()).await;
    auth_server.set_mode(Mode::Deny);
    assert_status(&other.reserve().await, Status::PermissionDenied);
    let (answer, _) = peer.connect(other.peer_id).await;
    assert_status(&answer, Status::PermissionDenied);
    // It is forgotten in time.
    let forgotten = tokio::time::timeout(PATIENCE, async {
        while peer.reserve().await.status != Some(Status::PermissionDenied.into()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    forgotten.await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_remembered_when_nothing_is_to_be() {
    for variable in ["RELAY_ACCESS_CACHE_TTL", "RELAY_ACCESS_CACHE_CAPACITY"] {
        let auth_server = AuthServer::start(Mode::Allow).await;
        let relay = start(&auth_server, &[(variable, "0")]).await;
        let _connections = reserved_on(3, &relay).await;
        assert_eq!(auth_server.requests().len(), 3);
        relay.stop().await;
    }
}

/// A peer with this many connections, each of which has asked the endpoint for the reservation.
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

/// Without a cache, too: what was granted a moment ago is not decided anew.
#[tokio::test(flavor = "multi_thread")]
async fn flood_of_renewals_seldom_reaches_the_endpoint() {
    let auth_server = AuthServer::start(Mode::Allow).await;
    let relay = start(&auth_server, &[("RELAY_ACCESS_CACHE_TTL", "0")]).await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let begin = Instant::now();
    for _ in 0..100 {
        assert_status(&peer.reserve().await, Status::Ok);
    }
    let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap();
    let questions = auth_server.requests().len();
    assert!(questions <= 1 + seconds / 5, "{questions} in {seconds} s");
    relay.stop().await;
}

/// The requests of one peer wait for one another, and the endpoint never has more than its limit.
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
    let mut greedy = Raw::new(&relay.tcp()).await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut stream = greedy.hop().await;
        let request = connect(&PeerId::random().to_bytes());
        stream.write_all(&request).await.unwrap();
        stream.flush().await.unwrap();
        streams.push(stream);
    }
    auth_server.wait_for_requests(CONCURRENCY / 8).await;
    auth_server.set_mode(Mode::Allow);
    let mut modest = Raw::new(&relay.tcp()).await;
    assert_status(&modest.reserve().await, Status::Ok);
    // Later, the endpoint may have what the relay no longer waits for and has just asked instead.
    assert!(begin.elapsed() < TIMEOUT);
    assert!(
        auth_server.peak() <= CONCURRENCY / 8 + 1,
        "{}",
        auth_server.peak()
    );
    auth_server.set_mode(Mode::Hang);
    // Those few that are asked have no answer. The rest has waited for itself, which is no reason
    // to be let in.
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
    has(&relay, "relay_hop_requests_total", &busy, denied).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_has_no_more_questions_at_once_than_it_is_to() {
    let auth_server = AuthServer::start(Mode::Slow(Duration::from_millis(100))).await;
    let relay = start(
        &auth_server,
        &[
            ("RELAY_ACCESS_CONCURRENCY", "2"),
            ("RELAY_ACCESS_TIMEOUT", "10s"),
            // One address would have one of them.
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
async fn identical_questions_under_way_are_asked_once() {
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
    // A request that is late by more than the first answer takes is sent separately.
    let asked = auth_server.requests().len();
    assert!(asked < REQUESTS, "{asked}");
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let shared = (REQUESTS - asked) as f64;
    has(&relay, LOOKUPS, &[("outcome", "coalesced")], shared).await;
    relay.stop().await;
}

/// Renewals are no new reservations, and nothing is remembered: each would be a question.
#[tokio::test(flavor = "multi_thread")]
async fn one_peer_cannot_flood_the_endpoint() {
    const BURST: usize = 128;
    const RATE: usize = 4;
    let auth_server = AuthServer::start(Mode::Allow).await;
    let relay = start(&auth_server, &[("RELAY_ACCESS_CACHE_TTL", "0")]).await;
    let address = relay.tcp();
    let begin = Instant::now();
    let flood = async {
        let mut greedy = Raw::new(&address).await;
        for _ in 0..2 * BURST {
            if begin.elapsed() > Duration::from_secs(5) {
                break;
            }
            assert_status(&greedy.reserve().await, Status::Ok);
        }
        greedy.peer_id.to_string()
    };
    let others = async {
        for _ in 0..10 {
            let mut modest = Raw::new(&address).await;
            assert_status(&modest.reserve().await, Status::Ok);
        }
    };
    let (greedy, ()) = tokio::join!(flood, others);
    let of_greedy =
        |question: &test_support::auth_server::AuthRequest| question.body["peer"] == greedy;
    let asked = auth_server.requests().into_iter().filter(of_greedy).count();
    let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap();
    let most = BURST + RATE * (seconds + 1);
    assert!((1..=most).contains(&asked), "{asked} of {most}");
    relay.stop().await;
}

/// Peer ids are free: an address with many of them holds up no other one.
#[tokio::test(flavor = "multi_thread")]
async fn address_with_many_peers_has_a_part_of_the_questions() {
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
        let heard = async {
            auth_server.wait_for_requests(CONCURRENCY / 4 + 1).await;
            let last = auth_server.requests().pop().unwrap();
            assert_eq!(last.body["ip"], "192.0.2.2");
            auth_server.set_mode(Mode::Allow);
        };
        tokio::join!(waits, heard).0
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
