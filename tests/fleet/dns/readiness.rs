//! The zone lists exactly the relays that are ready.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use test_support::process::{Relay, is};

use crate::dns::{
    FLEET, SEED,
    server::{DnsServer, REMOVAL_TIMEOUT, relay},
};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// Ports that are currently free, for relays that restart.
fn free_ports<const N: usize>() -> [String; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}

async fn relay_at(instance: &str, admin: &str) -> Relay {
    relay(
        instance,
        &[("RELAY_ADMIN_ADDRESS", admin), ("RELAY_DRAIN_DELAY", "1m")],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_relay_is_removed_at_once_and_its_own_name_stays() {
    let mut a = relay("relay-a", &[("RELAY_DRAIN_DELAY", "1m")]).await;
    let b = relay("relay-b", &[]).await;
    let server = DnsServer::of(&[&a, &b], &[]).await;
    server.wait_for_relays(&[&a, &b]).await;

    a.signal(SIGTERM);
    a.event("draining").await;
    let took = server.wait_for_relays(&[&b]).await;
    assert!(took < REMOVAL_TIMEOUT, "{took:?}");
    // A draining relay still serves its existing clients, so its own name stays.
    for name in ["relay-a.fleet.test", "relay-b.fleet.test"] {
        let reply = server.ask(name, RecordType::A).await;
        assert_eq!(reply.answers.len(), 1, "{name}");
    }
    a.signal(SIGKILL);
    let begun = Instant::now();
    let mut code = ResponseCode::NoError;
    while code != ResponseCode::NXDomain {
        assert!(begun.elapsed() < REMOVAL_TIMEOUT, "{code}");
        let reply = server.ask("relay-a.fleet.test", RecordType::A).await;
        code = reply.metadata.response_code;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_is_removed_and_returns_with_the_same_peer_id() {
    let [admin_a, admin_b] = free_ports();
    let a = relay_at("relay-a", &admin_a).await;
    let b = relay_at("relay-b", &admin_b).await;
    let server = DnsServer::of(&[&a, &b], &[]).await;
    a.signal(SIGKILL);
    let took = server.wait_for_relays(&[&b]).await;
    assert!(took < REMOVAL_TIMEOUT, "{took:?}");
    let again = relay_at("relay-a", &admin_a).await;
    assert_eq!(again.peer_id, a.peer_id);
    let took = server.wait_for_relays(&[&again, &b]).await;
    assert!(took < REMOVAL_TIMEOUT, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_relay_is_removed_until_it_answers_again() {
    let a = relay("relay-a", &[]).await;
    let b = relay("relay-b", &[]).await;
    let server = DnsServer::of(&[&a, &b], &[]).await;
    a.signal(SIGSTOP);
    let took = server.wait_for_relays(&[&b]).await;
    a.signal(SIGCONT);
    assert!(took < REMOVAL_TIMEOUT, "{took:?}");
    let took = server.wait_for_relays(&[&a, &b]).await;
    assert!(took < REMOVAL_TIMEOUT, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_set_stays_when_no_relay_answers() {
    let [admin_a, admin_b] = free_ports();
    let a = relay_at("relay-a", &admin_a).await;
    let b = relay_at("relay-b", &admin_b).await;
    let mut server = DnsServer::of(&[&a, &b], &[]).await;
    a.signal(SIGKILL);
    b.signal(SIGKILL);
    let stale = server.event("the zone is stale").await;
    assert_eq!(
        (&stale["level"], &stale["listed"]),
        (&"WARN".into(), &2.into())
    );
    server.wait_for_relays(&[&a, &b]).await;

    let again = relay_at("relay-b", &admin_b).await;
    let current = server.event("the zone is current again").await;
    assert_eq!(
        (&current["listed"], &current["silent"]),
        (&1.into(), &1.into())
    );
    server.wait_for_relays(&[&again]).await;
    let stale = server
        .events
        .iter()
        .filter(|event| is(event, "the zone is stale"));
    assert_eq!(stale.count(), 1, "the event is logged once");
}

/// A draining relay rejects new connections, so it is not listed, even if it is the last one.
#[tokio::test(flavor = "multi_thread")]
async fn the_set_is_empty_when_all_relays_drain() {
    let mut a = relay("relay-a", &[("RELAY_DRAIN_DELAY", "1m")]).await;
    let mut server = DnsServer::of(&[&a], &[]).await;
    a.signal(SIGTERM);
    a.event("draining").await;
    server.wait_for_relay_count(0).await;
    let reply = server.ask(FLEET, RecordType::TXT).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty() && reply.authorities.len() == 1);
    // The set also stays empty after the relay has exited.
    a.signal(SIGKILL);
    server
        .event_where("relays changed", |event| event["silent"] == 1)
        .await;
    server.wait_for_relays(&[]).await;
}

/// A client that queried a server right after its start would otherwise get an empty response.
#[tokio::test(flavor = "multi_thread")]
async fn first_zone_contains_all_relays() {
    let (a, b) = (relay("relay-a", &[]).await, relay("relay-b", &[]).await);
    b.signal(SIGSTOP);
    let relays = format!("{},{}", a.admin(), b.admin());
    let mut server = DnsServer::start(&relays, &[("RUST_LOG", "descord_relay=debug")]).await;
    server.event("status request timed out").await;
    let reply = server.ask(FLEET, RecordType::TXT).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    b.signal(SIGCONT);
    let first = server.event("relays changed").await;
    assert_eq!(first["listed"], 2);
}

/// The first zone does not wait long for an unreachable relay.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_zone_does_not_wait_for_an_unreachable_relay() {
    let a = relay("relay-a", &[]).await;
    for gone in ["127.0.0.1:1", "no-such-name.invalid"] {
        let relays = format!("{},{gone}", a.admin());
        let server = DnsServer::start(&relays, &[]).await;
        server.wait_for_relays(&[&a]).await;
    }
}

/// Relays given by host names, and a second server that starts after all relays have exited.
#[tokio::test(flavor = "multi_thread")]
async fn relays_are_found_by_name_and_queries_fail_before_the_first_zone() {
    let relay = relay("relay-a", &[]).await;
    let port = relay.admin().port();
    let server = DnsServer::start(&format!("localhost:{port}"), &[]).await;
    server.wait_for_relays(&[&relay]).await;

    let mut lost = DnsServer::start("127.0.0.1:1,no-such-name.invalid", &[]).await;
    let warning = lost.event("lookup failed").await;
    assert_eq!(warning["host"], "no-such-name.invalid");
    let reply = lost.ask(FLEET, RecordType::TXT).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let admin = lost.admin().await;
    let (status, _) = descord_relay::admin::client::get(admin, "/readyz")
        .await
        .unwrap();
    assert_eq!(status, 503);
    lost.event("no relay has responded yet").await;
}

/// With the seed and the instance names, a relay of another fleet is ignored.
#[tokio::test(flavor = "multi_thread")]
async fn relay_of_another_fleet_is_not_listed() {
    let ours = relay("relay-0", &[]).await;
    let foreign = relay("relay-9", &[]).await;
    let relays = format!("{},{}", ours.admin(), foreign.admin());
    let variables = [
        ("RELAY_IDENTITY_SEED", SEED),
        ("RELAY_FLEET_INSTANCES", "relay-0,relay-1"),
    ];
    let mut server = DnsServer::start(&relays, &variables).await;
    let warning = server.event("ignoring relays").await;
    assert_eq!(warning["relays"], 1);
    server.wait_for_relays(&[&ours]).await;
}
