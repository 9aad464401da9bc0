//! go-libp2p nodes with default options, configured only with the relays' addresses. Expected: behind a
//! NAT, they detect that they are private, reserve, and can be reached through the relay by other
//! go-libp2p nodes and by rust-libp2p.
//!
//! The relays and the nodes are in network namespaces, because the nodes ignore loopback addresses. The
//! tests need root on Linux, Go, `ip`, `nft` and `nsenter`. `.ci/long clients` runs the slow ones.

#![allow(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use serde_json::{Value, json};
use test_support::{
    client::{Client, Security, assert_echoed},
    go::{self, Peer},
    internet::{self, ClientNetwork, Internet, Nat},
    process::Relay,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

/// Time limit, in seconds, until a node has detected that it is private and has reserved. This usually
/// takes 2 s. If `AutoNAT` refuses the first request, the node retries after 90 s.
const RESERVATION_TIMEOUT_S: f64 = 40.0;
/// Nodes test their reachability again after 90 s, and search for relays again after 60 s.
const RETEST_TIMEOUT: Duration = Duration::from_secs(150);

/// A node in a separate network.
struct Node {
    peer: Peer,
    network: ClientNetwork,
}

impl Node {
    async fn start(internet: &mut Internet, nat: Nat, options: Value) -> Self {
        let network = internet.client(nat).unwrap();
        let program = go::node().unwrap();
        let peer = Peer::start(network.namespace.command(&[], program), &options).await;
        Self { peer, network }
    }

    /// Waits until the node reports that it is private. Returns the elapsed seconds.
    async fn wait_until_private(&mut self) -> f64 {
        let wanted = |event: &Value| event["is"] == "Private";
        let event = self.peer.event_where("reachability", wanted).await;
        event["seconds"].as_f64().unwrap()
    }

    /// Waits until the node announces an address through this relay. Returns the elapsed seconds.
    async fn wait_until_reserved(&mut self, relay: &Relay) -> f64 {
        let through = format!("/p2p/{}/p2p-circuit", relay.peer_id);
        let event = self.peer.event_where("addresses", announces(through)).await;
        event["seconds"].as_f64().unwrap()
    }

    /// Sends bytes to this address, which echoes them.
    async fn echo(&mut self, address: &str) -> Value {
        let arguments = json!({ "address": address, "bytes": 100_000 });
        self.peer.call("echo", arguments).await.unwrap()
    }
}

/// The addresses that an event lists under `key`.
fn listed<'a>(event: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let addresses = event[key].as_array().into_iter().flatten();
    addresses.filter_map(Value::as_str)
}

/// Whether an event lists an announced address that contains `part`.
fn announces(part: String) -> impl Fn(&Value) -> bool {
    move |event| listed(event, "are").any(|address| address.contains(&part))
}

fn through(relay: &Multiaddr, peer: &str) -> String {
    format!("{relay}/p2p-circuit/p2p/{peer}")
}

/// Four relays that observe the same address of a node, so that it requests a test of this address.
async fn four_relays(internet: &Internet) -> Vec<Relay> {
    let mut relays = Vec::new();
    for number in 1..=4 {
        relays.push(internet.relay(number, &[]).await);
    }
    relays
}

fn can_run() -> bool {
    internet::is_available() && go::node().is_some()
}

/// A reserved rust-libp2p node that echoes data until the sender is dropped.
async fn reserved_rust_node(
    network: &ClientNetwork,
    relay: Multiaddr,
) -> (PeerId, oneshot::Sender<()>) {
    let (reserved, id) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let _thread = network.namespace.spawn(move || async move {
        let mut client = Client::new(Security::Noise).await;
        client.spawn_echo();
        client.reserve(&relay).await.unwrap();
        reserved.send(client.peer_id).unwrap();
        let _ = client.run_until(ended).await;
    });
    (id.await.unwrap(), end)
}

/// A rust-libp2p node dials `target` through the relay, and verifies an echo.
async fn rust_reaches(network: &ClientNetwork, relay: Multiaddr, target: PeerId) {
    let (done, is_done) = oneshot::channel();
    let _thread = network.namespace.spawn(move || async move {
        let mut client = Client::new(Security::Noise).await;
        client.connect(&relay, target).await.unwrap();
        let mut streams = client.streams.clone();
        let data = vec![7; 100_000];
        client
            .run_until(assert_echoed(&mut streams, target, &data))
            .await;
        done.send(()).unwrap();
    });
    is_done.await.unwrap();
}

/// Two nodes behind NATs reserve, one over TCP and one over QUIC. They connect to each other and to a
/// rust-libp2p node, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn go_nodes_behind_nats_become_private_reserve_and_are_reached() {
    if !can_run() {
        return;
    }
    let mut internet = Internet::new(1).unwrap();
    let relay = internet.relay(1, &[]).await;
    let mut nodes = Vec::new();
    for address in [relay.tcp(), relay.quic()] {
        let options = json!({ "relays": [address.to_string()], "autorelay": "static" });
        nodes.push(Node::start(&mut internet, Nat::Strict, options).await);
    }
    let rust = internet.client(Nat::Strict).unwrap();
    let (rust_id, _rust) = reserved_rust_node(&rust, relay.quic()).await;
    for (node, address) in nodes.iter_mut().zip([relay.tcp(), relay.quic()]) {
        let private = node.wait_until_private().await;
        let reserved = node.wait_until_reserved(&relay).await;
        println!("over {address}: private after {private:.1} s, reserved after {reserved:.1} s");
        assert!(reserved < RESERVATION_TIMEOUT_S, "{reserved}");
    }
    let [first, second] = nodes.as_mut_slice() else {
        unreachable!("two nodes were started");
    };
    let ids = [first.peer.id.clone(), second.peer.id.clone()];
    let reached = first.echo(&through(&relay.tcp(), &ids[1])).await;
    assert_eq!(reached["limited"], true, "{reached}");
    second.echo(&through(&relay.quic(), &ids[0])).await;
    second
        .echo(&through(&relay.quic(), &rust_id.to_string()))
        .await;
    first
        .echo(&through(&relay.tcp(), &rust_id.to_string()))
        .await;
    for (id, over) in ids.iter().zip([relay.quic(), relay.tcp()]) {
        rust_reaches(&rust, over, id.parse().unwrap()).await;
    }
    relay.stop().await;
}

/// A relay that dialled the observed address would report a node behind such a NAT as reachable.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: .ci/long clients"]
async fn go_node_behind_an_address_restricted_nat_is_private() {
    if !can_run() {
        return;
    }
    let mut internet = Internet::new(1).unwrap();
    let relay = internet.relay(1, &[]).await;
    let options = json!({ "relays": [relay.tcp().to_string()], "autorelay": "static" });
    let mut node = Node::start(&mut internet, Nat::AddressRestricted, options).await;
    let private = node.wait_until_private().await;
    let reserved = node.wait_until_reserved(&relay).await;
    println!("private after {private:.1} s, reserved after {reserved:.1} s");
    relay.stop().await;
}

/// Four relays observe the same address, so the node requests a test of it; the NAT drops the dial.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: .ci/long clients"]
async fn go_node_with_named_addresses_behind_a_nat_is_private() {
    if !can_run() {
        return;
    }
    let mut internet = Internet::new(4).unwrap();
    let relays = four_relays(&internet).await;
    let addresses: Vec<_> = relays.iter().map(|relay| relay.tcp().to_string()).collect();
    let options = json!({ "relays": addresses, "autorelay": "static", "autonat_v2": true });
    let mut node = Node::start(&mut internet, Nat::Strict, options).await;
    let private = node.wait_until_private().await;
    let public = format!("/ip4/{}/tcp/", node.network.public);
    let is_unreachable =
        |event: &Value| listed(event, "unreachable").any(|address| address.starts_with(&public));
    let verdict = node
        .peer
        .event_where("reachable addresses", is_unreachable)
        .await;
    println!("private after {private:.1} s; AutoNAT v2: {verdict}");
    for relay in relays {
        relay.stop().await;
    }
}

/// Behind a 1:1 NAT and with four relays, both versions report the observed addresses as reachable, over
/// TCP and QUIC.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: .ci/long clients"]
async fn go_node_behind_a_one_to_one_nat_is_public_to_four_relays() {
    if !can_run() {
        return;
    }
    let mut internet = Internet::new(4).unwrap();
    let relays = four_relays(&internet).await;
    for quic in [false, true] {
        let address = |relay: &Relay| if quic { relay.quic() } else { relay.tcp() };
        let addresses: Vec<_> = relays.iter().map(|r| address(r).to_string()).collect();
        let options = json!({ "relays": addresses, "autonat_v2": true });
        let mut node = Node::start(&mut internet, Nat::OneToOne, options).await;
        node.peer.set_patience(RETEST_TIMEOUT);
        let is_public = |event: &Value| event["is"] == "Public";
        let public = node.peer.event_where("reachability", is_public).await;
        let prefix = format!(
            "/ip4/{}/{}",
            node.network.public,
            if quic { "udp" } else { "tcp" }
        );
        let is_reachable =
            |event: &Value| listed(event, "reachable").any(|address| address.starts_with(&prefix));
        let verdict = node
            .peer
            .event_where("reachable addresses", is_reachable)
            .await;
        println!("quic {quic}: {public}; AutoNAT v2: {verdict}");
    }
    for relay in relays {
        relay.stop().await;
    }
}

/// Of two relays, one drains: the node keeps the other, and returns to the first after its restart.
async fn assert_moves_and_returns(autorelay: &str) {
    if !can_run() {
        return;
    }
    let mut internet = Internet::new(2).unwrap();
    let seed = |instance| {
        [
            ("RELAY_IDENTITY_SEED", "a seed of this test alone"),
            ("RELAY_INSTANCE", instance),
            ("RELAY_DRAIN_WINDOW", "1s"),
        ]
    };
    let first = internet.relay(1, &seed("relay-0")).await;
    let second = internet.relay(2, &seed("relay-1")).await;
    let relays = [first.quic().to_string(), second.quic().to_string()];
    let options = json!({ "relays": relays, "autorelay": autorelay });
    let mut node = Node::start(&mut internet, Nat::Strict, options).await;
    node.wait_until_reserved(&first).await;
    node.wait_until_reserved(&second).await;
    let began = Instant::now();
    first.signal(15);
    let gone = format!("/p2p/{}/p2p-circuit", first.peer_id);
    let left = format!("/p2p/{}/p2p-circuit", second.peer_id);
    let moved = |event: &Value| announces(left.clone())(event) && !announces(gone.clone())(event);
    node.peer.event_where("addresses", moved).await;
    println!(
        "{autorelay}: moved after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let mut first = first;
    assert_eq!(first.exit_code().await, Some(0));
    let began = Instant::now();
    let first = internet.relay(1, &seed("relay-0")).await;
    node.peer.set_patience(RETEST_TIMEOUT);
    node.wait_until_reserved(&first).await;
    println!(
        "{autorelay}: returned after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: .ci/long clients"]
async fn go_node_with_static_relays_moves_and_returns() {
    assert_moves_and_returns("static").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: .ci/long clients"]
async fn go_node_with_a_peer_source_moves_and_returns() {
    assert_moves_and_returns("source").await;
}

/// Without `AutoNAT` version 1, a node does not detect that it is private, and does not reserve.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: .ci/long clients"]
async fn go_node_does_not_reserve_without_autonat() {
    if !can_run() {
        return;
    }
    let mut internet = Internet::new(1).unwrap();
    let relay = internet.relay(1, &[("RELAY_AUTONAT", "none")]).await;
    let options = json!({ "relays": [relay.tcp().to_string()], "autorelay": "static" });
    let mut node = Node::start(&mut internet, Nat::Strict, options).await;
    let reserved = timeout(Duration::from_secs(45), node.wait_until_reserved(&relay)).await;
    assert!(reserved.is_err(), "{reserved:?}");
    relay.stop().await;
}
