//! Relays that die, freeze or lose their network: DNS follows, and clients with two reservations
//! lose no request.

use std::time::Duration;

use serde_json::json;
use test_support::fleet::Traffic;

use crate::{
    cluster::{Cluster, RELAYS},
    engine::{docker, image},
};

const PAIRS: usize = 3;
/// Requests of a pair between two events. Each attempt at a relay that froze takes five seconds.
const FEW: usize = 4;
/// How long a relay that is gone may stay in DNS: 2 s, and as much again for a busy machine.
const GONE_WITHIN: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn dns_follows_and_no_request_fails() {
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
    gone(&cluster, "killed", &[1, 2]).await;
    traffic.flows(FEW).await;
    docker(&["start", &containers[0]]).await;
    back(&cluster, &traffic).await;

    docker(&["pause", &containers[1]]).await;
    gone(&cluster, "frozen", &[0, 2]).await;
    traffic.flows(FEW).await;
    docker(&["unpause", &containers[1]]).await;
    back(&cluster, &traffic).await;

    docker(&["network", "disconnect", network, &containers[2]]).await;
    gone(&cluster, "cut off", &[0, 1]).await;
    traffic.flows(FEW).await;
    docker(&[
        "network",
        "connect",
        "--alias=relay-2",
        network,
        &containers[2],
    ])
    .await;
    back(&cluster, &traffic).await;

    traffic.stop().await.assert_none_failed();
    for relay in RELAYS {
        let state = &cluster.inspect(relay).await["State"];
        assert_eq!(state["Running"], json!(true), "{relay}: {state}");
    }
}

async fn gone(cluster: &Cluster, how: &str, left: &[usize]) {
    let took = cluster.lists(left).await;
    println!("{how}: gone from DNS after {took:?}");
    assert!(took < GONE_WITHIN, "{took:?}");
}

/// All relays are listed again, under the same peer ids, and used.
///
/// A client takes some seconds to notice that its relay was killed, and is left with one relay until
/// then: nothing else may fail meanwhile. Nor while a request that the failure met is on its way.
async fn back(cluster: &Cluster, traffic: &Traffic) {
    cluster.lists(&[0, 1, 2]).await;
    traffic.settles().await;
    cluster.holds(2 * PAIRS as u64).await;
    traffic.flows(FEW).await;
}
