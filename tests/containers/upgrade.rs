//! `deploy/compose/rolling-upgrade` under traffic, and with unusable images. Expected: no failed request
//! and no cut circuit; a bad image stops the upgrade at the first relay.

use std::{process::Output, time::Duration};

use test_support::{PATIENCE, fleet::Traffic};
use tokio::{process::Command, time::timeout};

use crate::{
    cluster::{Cluster, RELAYS, text},
    engine::{Derived, docker, image, inspect},
};

const PAIRS: usize = 3;
/// Longer than the drain delay, so that a circuit open at SIGTERM is still open during the drain.
const LONG_CIRCUIT: Duration = Duration::from_secs(12);
const NEXT: &str = "descord-relay:test-next";
const DNS: [&str; 2] = ["dns-0", "dns-1"];

async fn upgrade(cluster: &Cluster) -> Output {
    let mut command = cluster.command("deploy/compose/rolling-upgrade");
    let output = command.args(["--pause", "1s"]).output().await.unwrap();
    println!("{}", text(&output));
    output
}

/// Starts an upgrade and interrupts it while the first relay drains, like Ctrl-C.
async fn interrupt_upgrade(cluster: &Cluster) {
    let mut command = cluster.command("deploy/compose/rolling-upgrade");
    let relay = cluster.inspect("relay-0").await["Id"].take();
    let mut upgrade = command.process_group(0).spawn().unwrap();
    let status = ["exec", relay.as_str().unwrap(), "/descord-relay", "status"];
    let drains = async {
        while !docker(&status).await.contains("draining") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, drains).await.expect("relay-0 drains");
    let group = format!("-{}", upgrade.id().unwrap());
    let kill = ["-INT", "--", &group];
    assert!(
        Command::new("kill")
            .args(kill)
            .status()
            .await
            .unwrap()
            .success()
    );
    assert!(!upgrade.wait().await.unwrap().success());
}

/// The images of the containers of these services.
async fn images(cluster: &Cluster, services: &[&str]) -> Vec<String> {
    let mut images = Vec::new();
    for service in services {
        let container = cluster.inspect(service).await;
        images.push(container["Image"].as_str().unwrap().to_owned());
    }
    images
}

async fn id_of(image: &str) -> String {
    inspect(image).await["Id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_fails_no_request_and_cuts_no_circuit() {
    let Some(image) = image().await else { return };
    let next = Derived::from(image, "LABEL next=yes").await;
    docker(&["tag", &next.id, NEXT]).await;
    assert_ne!(next.id, id_of(image).await);
    let mut cluster = Cluster::up(image).await;
    let mut traffic = Traffic::new(LONG_CIRCUIT);
    for _ in 0..PAIRS {
        traffic.add(cluster.fleet()).await;
    }
    traffic.wait_for_requests(10).await;
    cluster.use_image(NEXT);
    interrupt_upgrade(&cluster).await;
    let upgraded = upgrade(&cluster).await;
    assert!(upgraded.status.success());
    traffic.wait_for_requests(10).await;
    let outcome = traffic.stop().await;
    outcome.assert_none_failed();
    assert_eq!(outcome.cut, [] as [String; 0]);
    assert!(outcome.requests > 100, "{}", outcome.requests);
    for running in images(&cluster, &[&RELAYS[..], &DNS].concat()).await {
        assert_eq!(running, next.id);
    }
    // All relays have their previous peer ids.
    cluster.wait_for_records(&[0, 1, 2]).await;
    // A second upgrade finds nothing to do.
    let again = upgrade(&cluster).await;
    assert!(again.status.success());
    assert_eq!(
        text(&again).matches("is up to date").count(),
        RELAYS.len() + DNS.len()
    );
}

/// An unusable image stops the upgrade, at the latest after the first relay.
#[tokio::test(flavor = "multi_thread")]
async fn bad_image_stops_the_upgrade_at_the_first_relay() {
    let Some(image) = image().await else { return };
    let good = id_of(image).await;
    let mut cluster = Cluster::up(image).await;

    cluster.use_image("descord-relay:test-none");
    let refused = upgrade(&cluster).await;
    assert!(!refused.status.success());
    assert!(text(&refused).contains("there is no image descord-relay:test-none"));

    // The upgrade does not stop a relay while another one is unavailable.
    let frozen = cluster.inspect("relay-2").await;
    docker(&["pause", frozen["Id"].as_str().unwrap()]).await;
    let next = Derived::from(image, "LABEL refused=yes").await;
    cluster.use_image(&next.id);
    let refused = upgrade(&cluster).await;
    assert!(!refused.status.success());
    assert!(text(&refused).contains("relay-2 is not ready"));
    docker(&["unpause", frozen["Id"].as_str().unwrap()]).await;
    assert_eq!(images(&cluster, &RELAYS).await, [&*good; 3]);
    cluster.wait_for_records(&[0, 1, 2]).await;

    let misconfigured = Derived::from(image, "ENV RELAY_MAX_CIRCUITS=many").await;
    cluster.use_image(&misconfigured.id);
    let refused = upgrade(&cluster).await;
    assert!(!refused.status.success());
    assert!(text(&refused).contains("RELAY_MAX_CIRCUITS"));
    assert_eq!(images(&cluster, &RELAYS).await, [&*good; 3]);

    // The admin endpoint is reachable only from inside the container.
    let without_admin_endpoint = Derived::from(image, "ENV RELAY_ADMIN_ADDRESS=127.0.0.1:1").await;
    cluster.use_image(&without_admin_endpoint.id);
    let stopped = upgrade(&cluster).await;
    assert!(!stopped.status.success());
    assert!(text(&stopped).contains("stopped: relay-0 is not found"));
    let expected = [&*without_admin_endpoint.id, &*good, &*good];
    assert_eq!(images(&cluster, &RELAYS).await, expected);
    cluster.wait_for_records(&[1, 2]).await;

    // A later upgrade with a working image continues from where the previous one stopped.
    cluster.use_image(image);
    assert!(upgrade(&cluster).await.status.success());
    cluster.wait_for_records(&[0, 1, 2]).await;
}
