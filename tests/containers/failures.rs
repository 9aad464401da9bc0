//! Relay failures: a killed process, a frozen container, a lost network. Expected: DNS removes the relay
//! within the time limit, and clients with two reservations lose no request.

use std::time::Duration;

use serde_json::json;
use test_support::fleet::Traffic;

use crate::{
    cluster::{Cluster, RELAYS},
    engine::{docker, image},
};

const PAIRS: usize = 3;
/// Requests of each pair between two events. An attempt at a frozen relay takes 5 s.
const REQUESTS: usize = 4;
/// Time limit for the removal of a failed relay from DNS: 2 s, doubled for a busy machine.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn failed_relays_are_removed_from_dns_and_no_request_fails() {
    let Some(image) = image().await else { return };
    let cluster = Cluster::up(image).await;
    let mut traffic = Traffic::new(Duration::from_secs(3));
    for _ in 0..PAIRS {
        traffic.add(cluster.fleet()).await;
    }
    let mut containers = Vec::new();
    for relay in RELAYS {
        containers.push(
            cluster.inspect(relay).await["Id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let network = "descord-relay-test_default";

    docker(&["kill", &containers[0]]).await;
    assert_removed_from_dns(&cluster, "killed", &[1, 2]).await;
    traffic.wait_for_requests(REQUESTS).await;
    docker(&["start", &containers[0]]).await;
    wait_for_recovery(&cluster, &traffic).await;

    docker(&["pause", &containers[1]]).await;
    assert_removed_from_dns(&cluster, "frozen", &[0, 2]).await;
    traffic.wait_for_requests(REQUESTS).await;
    docker(&["unpause", &containers[1]]).await;
    wait_for_recovery(&cluster, &traffic).await;

    docker(&["network", "disconnect", network, &containers[2]]).await;
    assert_removed_from_dns(&cluster, "cut off", &[0, 1]).await;
    traffic.wait_for_requests(REQUESTS).await;
    docker(&[
        "network",
        "connect",
        "--alias=relay-2",
        network,
        &containers[2],
    ])
    .await;
    wait_for_recovery(&cluster, &traffic).await;

    traffic.stop().await.assert_none_failed();
    for relay in RELAYS {
        let state = &cluster.inspect(relay).await["State"];
        assert_eq!(state["Running"], json!(true), "{relay}: {state}");
    }
}

async fn assert_removed_from_dns(cluster: &Cluster, how: &str, left: &[usize]) {
    let took = cluster.wait_for_records(left).await;
    println!("{how}: removed from DNS after {took:?}");
    assert!(took < REMOVAL_TIMEOUT, "{took:?}");
}

/// Waits until all relays are listed under their peer ids and serve traffic.
///
/// A client notices after some seconds that its relay was killed, and has a single relay until then. The
/// next failure must not happen before that, nor while a request affected by this one is in flight.
async fn wait_for_recovery(cluster: &Cluster, traffic: &Traffic) {
    cluster.wait_for_records(&[0, 1, 2]).await;
    traffic.wait_for_reservations().await;
    cluster.wait_for_reservations(2 * PAIRS as u64).await;
    traffic.wait_for_requests(REQUESTS).await;
}
