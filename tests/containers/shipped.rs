//! `compose.yaml` as it is shipped.

use std::time::Duration;

use libp2p::multiaddr::Protocol;
use serde_json::Value;

use crate::{
    cluster::{Cluster, RELAYS, environment, text},
    engine::image,
    support::client::{Client, Security},
};

/// What the file comes to, with every profile.
async fn configuration() -> Value {
    let mut command = environment("docker", "descord-relay:test");
    let arguments = ["compose", "--profile=*", "config", "--format=json"];
    let output = command.args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn duration(value: &Value) -> Duration {
    humantime::parse_duration(value.as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn no_upgrade_of_the_cluster_cuts_a_circuit() {
    if image().await.is_none() {
        return;
    }
    let services = &configuration().await["services"];
    for relay in RELAYS {
        let (relay, settings) = (&services[relay], &services[relay]["environment"]);
        let circuit = duration(&settings["RELAY_MAX_CIRCUIT_DURATION"]);
        let timeout = duration(&settings["RELAY_DRAIN_TIMEOUT"]);
        let delay = duration(&settings["RELAY_DRAIN_DELAY"]);
        let grace = duration(&relay["stop_grace_period"]);
        assert!(circuit < timeout);
        assert!(delay + timeout < grace);
        // What has been looked up is forgotten before anybody is refused: TTL 5 s, and two rounds.
        assert!(delay >= Duration::from_secs(7));
    }
}

#[tokio::test]
async fn the_services_have_no_rights_and_bounded_resources() {
    if image().await.is_none() {
        return;
    }
    for (name, service) in configuration().await["services"].as_object().unwrap() {
        assert_eq!(service["cap_drop"][0], "ALL", "{name}");
        assert_eq!(
            service["security_opt"][0], "no-new-privileges:true",
            "{name}"
        );
        let limits = &service["deploy"]["resources"]["limits"];
        if service["restart"] != "no" {
            assert!(limits["memory"].is_string(), "{name}");
        }
        if service["image"] == "descord-relay:test" {
            assert_eq!(service["read_only"], true, "{name}");
        }
        // The operator's endpoints are for this machine alone.
        for port in service["ports"].as_array().into_iter().flatten() {
            let is_public = port["target"] == 9000 || port["target"] == 53;
            assert!(
                is_public || port["host_ip"] == "127.0.0.1",
                "{name}: {port}"
            );
        }
        let text = service.to_string();
        assert!(!text.contains("IDENTITY_SEED\""), "{name} holds a secret");
    }
}

/// On a fresh machine, with the two commands of the README.
#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_works_from_its_name_to_the_last_byte() {
    let Some(image) = image().await else { return };
    let cluster = Cluster::up(image).await;
    let probed = cluster.compose(&["run", "--rm", "--no-TTY", "probe"]).await;
    for peer_id in &cluster.peer_ids {
        let proven = probed.lines().filter(|line| {
            let report: Value = serde_json::from_str(line).unwrap();
            report["ok"] == true && report["peer_id"] == peer_id.as_str()
        });
        assert_eq!(proven.count(), 2, "TCP and QUIC of {peer_id} in {probed}");
    }
    // A client outside of the cluster, which looks the name up by itself.
    let mut client = Client::asking(Security::Noise, &Cluster::name_servers()).await;
    client
        .dial(&Protocol::Dnsaddr("fleet.test".into()).into())
        .await;
    for relay in cluster.fleet().relays {
        client.reserve(&relay).await.unwrap();
    }

    // The seed stays: with new containers, the relays are who they were.
    cluster.compose(&["down", "--timeout=30"]).await;
    cluster
        .compose(&["up", "--detach", "--wait", "--no-build"])
        .await;
    cluster.lists(&[0, 1, 2]).await;
}
