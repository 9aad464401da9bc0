//! `compose.yaml` without overrides. Expected: documented ports and addresses, consistent drain settings,
//! minimal privileges, and a working cluster.

use std::{fs, path::Path, time::Duration};

use libp2p::multiaddr::Protocol;
use serde_json::Value;
use tempfile::TempDir;
use test_support::{
    client::{Client, Security},
    tools,
};
use tokio::process::Command;

use crate::{
    cluster::{Cluster, RELAYS, environment, text},
    engine::image,
};

/// The resolved configuration, with every profile.
async fn configuration() -> Value {
    configured(environment("docker", "descord-relay:test")).await
}

async fn configured(mut command: Command) -> Value {
    let arguments = ["compose", "--profile=*", "config", "--format=json"];
    let output = command.args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn duration(value: &Value) -> Duration {
    humantime::parse_duration(value.as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn drain_settings_exceed_the_circuit_duration() {
    if image().await.is_none() {
        return;
    }
    let mut longer = environment("docker", "descord-relay:test");
    longer.env("RELAY_MAX_CIRCUIT_DURATION", "2h");
    for configuration in [configuration().await, configured(longer).await] {
        assert_drain_exceeds_circuits(&configuration["services"]);
    }
}

fn assert_drain_exceeds_circuits(services: &Value) {
    for relay in RELAYS {
        let (relay, settings) = (&services[relay], &services[relay]["environment"]);
        let circuit = duration(&settings["RELAY_MAX_CIRCUIT_DURATION"]);
        let timeout = duration(&settings["RELAY_DRAIN_TIMEOUT"]);
        let delay = duration(&settings["RELAY_DRAIN_DELAY"]);
        let grace = duration(&relay["stop_grace_period"]);
        assert!(circuit < timeout);
        assert!(delay + timeout < grace);
        // Cached DNS answers expire before the first refusal: a TTL of 5 s, and two polling rounds.
        assert!(delay >= Duration::from_secs(7));
    }
}

#[tokio::test]
async fn default_configuration_matches_the_documentation() {
    if image().await.is_none() {
        return;
    }
    let mut command = Command::new("docker");
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("COMPOSE_PROJECT_NAME");
    let services = &configured(command).await["services"];
    let published: Vec<_> = [
        "relay-0",
        "relay-1",
        "relay-2",
        "dns-0",
        "dns-1",
        "prometheus",
        "grafana",
    ]
    .iter()
    .flat_map(|name| services[name]["ports"].as_array().unwrap())
    .map(|port| port["published"].as_str().unwrap())
    .collect();
    let expected = [
        "9000", "9000", "9010", "9001", "9001", "9011", "9002", "9002", "9012", "9053", "9053",
        "9054", "9054", "9090", "9030",
    ];
    assert_eq!(published, expected);
    for relay in RELAYS {
        let environment = &services[relay]["environment"];
        assert_eq!(environment["RELAY_INSTANCE"], relay);
        let announced = "/ip4/10.53.0.1/tcp/900{index},/ip4/10.53.0.1/udp/900{index}/quic-v1";
        assert_eq!(environment["RELAY_EXTERNAL_ADDRESSES"], announced);
    }
    let fleet = "/dnsaddr/fleet.test";
    assert_eq!(
        services["probe"]["command"]
            .as_array()
            .unwrap()
            .last()
            .unwrap(),
        fleet
    );
    // One service builds the image, and all others depend on it. Concurrent builds of one image would
    // conflict.
    let built = services.as_object().unwrap().iter();
    let built: Vec<_> = built
        .filter(|(_, service)| service["build"].is_object())
        .collect();
    assert!(
        matches!(built[..], [(name, _)] if name == "seed"),
        "{built:?}"
    );
}

/// `promtool` accepts the Prometheus configuration and the alert rules.
#[tokio::test]
async fn prometheus_accepts_its_configuration() {
    let installed = tools::run(std::process::Command::new("promtool").arg("--version"));
    if tools::or_skip("promtool", &installed).is_none() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [
        "deploy/compose/prometheus.yaml",
        "observability/alerts.yaml",
    ] {
        let file = checkout.join(file);
        fs::copy(&file, directory.path().join(file.file_name().unwrap())).unwrap();
    }
    let configuration = directory.path().join("prometheus.yaml");
    let mut check = std::process::Command::new("promtool");
    tools::run(check.args(["check", "config"]).arg(configuration)).unwrap();
}

#[tokio::test]
async fn services_are_unprivileged_and_bounded() {
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
        assert_eq!(service["read_only"], true, "{name}");
        // The admin endpoints are published on loopback only.
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

/// Starts the cluster from a clean state, with the two commands of the README.
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
    // A client outside of the cluster that resolves the fleet's name.
    let mut client = Client::with_name_servers(Security::Noise, &Cluster::name_servers()).await;
    client
        .dial(&Protocol::Dnsaddr("fleet.test".into()).into())
        .await;
    for relay in cluster.fleet().relays {
        client.reserve(&relay).await.unwrap();
    }

    // The identity seed persists, so new containers have the same peer ids.
    cluster.compose(&["down", "--timeout=30"]).await;
    cluster
        .compose(&["up", "--detach", "--wait", "--no-build"])
        .await;
    cluster.wait_for_records(&[0, 1, 2]).await;
}
