//! `/peers` of the real relay, compared with the bytes that the clients sent and received.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

use circuit_relay::wire::Status;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::PeerId;
use serde_json::{Value, json};
use test_support::{
    http,
    process::Relay,
    raw::{Circuit, Raw, assert_status},
};

async fn start(variables: &[(&str, &str)]) -> Relay {
    let mut all = vec![("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")];
    all.extend(variables);
    Relay::start(&all).await
}

/// An open circuit, and the peer ids of its source and its target.
async fn circuit(relay: &mut Relay) -> (Circuit, [String; 2]) {
    let (source, target) = (Raw::new(&relay.quic()).await, Raw::new(&relay.tcp()).await);
    let circuit = Circuit::between(source, target).await;
    let reserved = relay.event("reservation accepted").await;
    let accepted = relay.event("circuit accepted").await;
    let name = |name: &Value| name.as_str().unwrap().to_owned();
    (
        circuit,
        [name(&accepted["source_peer"]), name(&reserved["peer"])],
    )
}

/// Sends this many bytes to the target and reads them there.
async fn carry(circuit: &mut Circuit, bytes: usize) {
    circuit.near.write_all(&vec![7; bytes]).await.unwrap();
    circuit.near.flush().await.unwrap();
    let mut received = vec![0; bytes];
    circuit.far.read_exact(&mut received).await.unwrap();
}

/// The same on a new circuit, which then ends. Returns the peer ids of both sides.
async fn carry_once(relay: &mut Relay, bytes: usize) -> [String; 2] {
    let (mut circuit, names) = circuit(relay).await;
    carry(&mut circuit, bytes).await;
    circuit.near.close().await.unwrap();
    circuit.far.close().await.unwrap();
    circuit.far.read_to_end(&mut Vec::new()).await.unwrap();
    relay.event("circuit closed").await;
    names
}

fn names(answer: &Value) -> Vec<&str> {
    let peers = answer["peers"].as_array().unwrap();
    peers.iter().map(|p| p["peer"].as_str().unwrap()).collect()
}

fn figures(sent: u64, received: u64, circuits: u64, reservations: u64) -> Value {
    json!({
        "bytes_sent": sent,
        "bytes_received": received,
        "circuits": circuits,
        "reservations": reservations,
        "denials": 0,
        "error": 0,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_and_received_bytes_count_for_both_ends_of_a_circuit() {
    let mut relay = start(&[]).await;
    let empty = json!({ "window_seconds": 300.0, "capacity": 1024, "tracked": 0, "peers": [] });
    assert_eq!(http::json(&relay, "/peers").await, empty);

    let (mut circuit, [source, target]) = circuit(&mut relay).await;
    circuit.near.write_all(&vec![7; 300_000]).await.unwrap();
    circuit.near.close().await.unwrap();
    circuit.far.write_all(&[7; 500]).await.unwrap();
    circuit.far.close().await.unwrap();
    circuit.far.read_to_end(&mut Vec::new()).await.unwrap();
    relay.event("circuit closed").await;

    let answer = http::json(&relay, "/peers").await;
    let of_source = figures(300_000, 500, 1, 0);
    let of_target = figures(500, 300_000, 1, 1);
    let now = |reservation| json!({ "reservation": reservation, "circuits": 0, "connections": 1 });
    let mut expected = vec![
        json!({ "peer": source, "now": now(false), "window": of_source, "total": of_source }),
        json!({ "peer": target, "now": now(true), "window": of_target, "total": of_target }),
    ];
    // Both forwarded the same number of bytes, so the order is undefined.
    if names(&answer)[0] == target {
        expected.reverse();
    }
    assert_eq!(answer["peers"], Value::from(expected));
    assert_eq!(answer["tracked"], 2);
    for client in [&circuit.source, &circuit.target] {
        let id = client.peer_id.to_string();
        assert!(!answer.to_string().contains(&id), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_circuits_are_included() {
    let mut relay = start(&[("RELAY_PEER_IDS", "full")]).await;
    let (mut circuit, _) = circuit(&mut relay).await;
    for sent in [10_000, 20_000] {
        carry(&mut circuit, 10_000).await;
        let source = circuit.source.peer_id.to_string();
        http::json_where(&relay, "/peers", |answer| {
            let lines = answer["peers"].as_array().unwrap();
            let line = lines.iter().find(|l| l["peer"] == source.as_str());
            line.is_some_and(|l| l["total"]["bytes_sent"] == sent && l["now"]["circuits"] == 1)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tracked_peers_are_limited_to_the_capacity() {
    let mut relay = start(&[("RELAY_PEER_STATS_CAPACITY", "3")]).await;
    let [source, target] = carry_once(&mut relay, 5000).await;
    for _ in 0..12 {
        let mut peer = Raw::new(&relay.quic()).await;
        let (answer, _) = peer.connect(PeerId::random()).await;
        assert_status(&answer, Status::NoReservation);
        relay.event("request denied").await;
        let answer = http::json(&relay, "/peers").await;
        assert_eq!(
            (&answer["capacity"], &answer["tracked"]),
            (&json!(3), &json!(3))
        );
        assert_eq!(names(&answer).len(), 3, "{answer}");
    }
    let answer = http::json(&relay, "/peers?by=total").await;
    assert!(names(&answer)[..2].contains(&&*source), "{answer}");
    assert!(names(&answer)[..2].contains(&&*target), "{answer}");
    let last = &answer["peers"][2]["total"];
    // The entry may have inherited the counts of all earlier peers.
    assert_eq!((&last["denials"], &last["error"]), (&json!(1), &json!(11)));
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_are_sorted_and_limited() {
    let mut relay = start(&[]).await;
    let mut pairs = Vec::new();
    for bytes in [2000, 3000, 1000] {
        pairs.push(carry_once(&mut relay, bytes).await);
    }
    let most = [&pairs[1], &pairs[0], &pairs[2]];
    let answer = http::json(&relay, "/peers?by=total&limit=5").await;
    let names = names(&answer);
    assert_eq!(names.len(), 5);
    for (at, name) in names.iter().enumerate() {
        assert!(most[at / 2].iter().any(|n| n == name), "{at}: {answer}");
    }
    assert_eq!(answer["tracked"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_traffic_leaves_the_window_but_not_the_total() {
    let mut relay = start(&[("RELAY_PEER_STATS_WINDOW", "3s")]).await;
    let before = carry_once(&mut relay, 9000).await;
    let is_over = |answer: &Value| {
        let window = &answer["peers"][0]["window"];
        window["bytes_sent"] == 0 && window["bytes_received"] == 0
    };
    let answer = http::json(&relay, "/peers?by=total").await;
    assert_eq!(answer["window_seconds"], 3.0);
    http::json_where(&relay, "/peers?by=total", is_over).await;

    let lately = carry_once(&mut relay, 100).await;
    for (by, first) in [("window", &lately), ("total", &before)] {
        let answer = http::json(&relay, &format!("/peers?by={by}")).await;
        assert!(
            first.iter().any(|n| n == names(&answer)[0]),
            "{by}: {answer}"
        );
        assert_eq!(names(&answer).len(), 4);
    }
}

/// A peer id as a CID of version 1, in base 32.
fn cid(peer: PeerId) -> String {
    let cid = [&[1, 0x72], peer.to_bytes().as_slice()].concat();
    multibase::encode(multibase::Base::Base32Lower, cid)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_peer_is_found_by_every_text_form_of_its_id() {
    let mut relay = start(&[]).await;
    let (mut circuit, [source, target]) = circuit(&mut relay).await;
    carry(&mut circuit, 100).await;
    for (peer, name) in [
        (circuit.source.peer_id, source),
        (circuit.target.peer_id, target),
    ] {
        for id in [peer.to_base58(), cid(peer)] {
            let answer = http::json(&relay, &format!("/peers?peer={id}&limit=1")).await;
            assert_eq!(names(&answer), [&name], "{id}: {answer}");
        }
    }
    let unknown = format!("/peers?peer={}", cid(PeerId::random()));
    assert!(names(&http::json(&relay, &unknown).await).is_empty());
    drop(circuit);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_bad_query_lists_allowed_values() {
    let relay = start(&[]).await;
    for (query, why) in [
        ("limit=0", "invalid limit"),
        ("limit=1001", "invalid limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=many", "limit"),
        ("by=bytes", "`bytes`"),
        ("by=total&by=window", "by"),
        ("until=now", "`until`"),
        ("peer=nobody", "not a peer id"),
    ] {
        let (status, text) = http::get(&relay, &format!("/peers?{query}")).await;
        assert_eq!(status, 400, "{query}");
        let allowed = "; allowed: limit=1 to 1000, by=window or by=total, peer=ID\n";
        assert!(text.contains(why) && text.ends_with(allowed), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tracked_when_disabled() {
    let mut relay = start(&[("RELAY_PEER_STATS_CAPACITY", "0")]).await;
    carry_once(&mut relay, 100).await;
    let (status, text) = http::get(&relay, "/peers").await;
    assert_eq!(status, 404);
    assert!(text.contains("RELAY_PEER_STATS_CAPACITY"), "{text}");
}
