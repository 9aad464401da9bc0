//! Access lists in environment variables.

use libp2p::PeerId;
use test_support::{process::is, raw::Circuit};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_peers_may_reserve() {
    let (key, id) = key();
    let mut relay = Relay::start(&[("RELAY_ACCESS_RESERVE_ALLOW", &id)]).await;
    let mut allowed = Raw::with_key(key, &relay.quic()).await;
    assert_status(&allowed.reserve().await, Status::Ok);
    let mut unlisted = Raw::new(&relay.tcp()).await;
    let denied = assert_refused(&mut relay, &mut unlisted).await;
    assert_eq!(denied["reason"], "access_rules", "{denied}");
    assert_eq!(denied["rule"], "not among allow reserve", "{denied}");
    // Peers that may not reserve can still open circuits.
    let circuit = Circuit::between(unlisted, allowed).await;
    drop(circuit);
    let events = relay.stop().await;
    let controlled = events.iter().find(|e| is(e, "access control enabled"));
    assert_eq!(controlled.unwrap()["rules"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_match_the_connection_address() {
    let mut relay = Relay::start(&[
        (
            "RELAY_LISTEN_ADDRESSES",
            "/ip4/127.0.0.1/tcp/0,/ip6/::1/tcp/0",
        ),
        ("RELAY_ACCESS_RESERVE_DENY", "192.0.2.0/24, ::1"),
        ("RELAY_ACCESS_CONNECT_ALLOW", "2001:db8::/32"),
    ])
    .await;
    let mut v4 = Raw::new(&relay.tcp()).await;
    assert_status(&v4.reserve().await, Status::Ok);
    let denied = assert_circuit_refused(&mut relay, &mut v4, PeerId::random()).await;
    assert_eq!(denied["rule"], "not among allow connect", "{denied}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_lead_only_to_allowed_targets() {
    let (open_key, open) = key();
    let (closed_key, closed) = key();
    let mut relay = Relay::start(&[
        ("RELAY_ACCESS_TARGET_ALLOW", &format!("{open},{closed}")),
        ("RELAY_ACCESS_TARGET_DENY", &closed),
    ])
    .await;
    let address = relay.tcp();
    let mut closed = Raw::with_key(closed_key, &address).await;
    assert_status(&closed.reserve().await, Status::Ok);
    let mut source = Raw::new(&address).await;
    let denied = assert_circuit_refused(&mut relay, &mut source, closed.peer_id).await;
    assert_eq!(
        denied["rule"], "RELAY_ACCESS_TARGET_DENY, item 1",
        "{denied}"
    );
    // The response does not disclose whether a peer is connected.
    let denied = assert_circuit_refused(&mut relay, &mut source, PeerId::random()).await;
    assert_eq!(denied["rule"], "not among allow target", "{denied}");
    Circuit::between(source, Raw::with_key(open_key, &address).await).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_control_is_off_without_rules() {
    let relay = Relay::start(&[
        ("RELAY_ACCESS_RESERVE_ALLOW", ""),
        ("RELAY_ACCESS_FILE", ""),
        ("RELAY_ACCESS_URL", ""),
    ])
    .await;
    Circuit::open(&relay.tcp()).await;
    let events = relay.stop().await;
    assert!(!events.iter().any(|e| is(e, "access control enabled")));
}
