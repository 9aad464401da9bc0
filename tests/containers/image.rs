//! The image: its content, metadata and size, and relays that run by `docker run`.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use auditable_info::Limits;
use descord_relay::{identity::peer_id_of, secret::Secret};
use futures::{AsyncReadExt, AsyncWriteExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{
    client::{Client, Security, TEST_PROTOCOL},
    process,
};
use tokio::process::Command;

use crate::engine::{Container, command, docker, image, inspect, is_built_here};

const SEED: &str = "the seed of a container of this test";

#[tokio::test]
async fn the_image_holds_the_binary_and_declares_how_to_run_it() {
    let Some(image) = image().await else { return };
    let found = inspect(image).await;
    let size = found["Size"].as_u64().unwrap();
    println!("{size} bytes");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/docker.md");
    let page = fs::read_to_string(page).unwrap();
    let (before, _) = page.split_once(" MB image").unwrap();
    let claim = before.split_whitespace().next_back().unwrap();
    let claim: u64 = claim.parse().unwrap();
    // The documented size is that of the profile `dist`. Other profiles produce a third more.
    let bound = if is_built_here() {
        claim * 4 / 3
    } else {
        claim
    };
    assert!(
        size <= bound * 1_000_000,
        "{size} bytes, but docs/docker.md says {claim} MB"
    );
    assert!(claim <= 35);
    let config = &found["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/descord-relay"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
    let check = json!(["CMD", "/descord-relay", "healthcheck"]);
    assert_eq!(config["Healthcheck"]["Test"], check);
    let ports: Vec<_> = config["ExposedPorts"].as_object().unwrap().keys().collect();
    assert_eq!(ports, ["8080/tcp", "9000/tcp", "9000/udp"]);
    let label = |name: &str| &config["Labels"][format!("org.opencontainers.image.{name}")];
    for name in ["title", "description", "licenses", "revision"] {
        assert!(label(name).is_string(), "no {name}");
    }
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));

    let id = docker(&["create", image]).await;
    let container = Container { id };
    let listing = format!("docker export {} | tar --list --verbose", container.id);
    let listing = Command::new("sh")
        .args(["-c", &listing])
        .output()
        .await
        .unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    // Docker adds directories, and empty files as mount points.
    let mut files: Vec<_> = listing
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[0].starts_with('-') && fields[2] != "0")
        .map(|fields| fields[5])
        .collect();
    files.sort_unstable();
    assert_eq!(
        files,
        ["descord-relay", "etc/ssl/certs/ca-certificates.crt"]
    );
}

/// The binary contains its dependency list in the format of cargo-auditable.
#[tokio::test]
async fn binary_contains_its_dependency_list() {
    let Some(image) = image().await else { return };
    let id = docker(&["create", image]).await;
    let container = Container { id };
    let directory = TempDir::new().unwrap();
    let binary = directory.path().join("descord-relay");
    let from = format!("{}:/descord-relay", container.id);
    docker(&["cp", &from, binary.to_str().unwrap()]).await;
    let found = auditable_info::audit_info_from_file(&binary, Limits::default()).unwrap();
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let mut names = vec![
        "descord-relay",
        "libp2p-swarm",
        "quinn-proto",
        "rustls",
        "aws-lc-sys",
    ];
    // This cipher is only a dependency on x86-64.
    if cfg!(target_arch = "x86_64") {
        names.push("openssl-sys");
    }
    for name in names {
        let package = found.packages.iter().find(|package| package.name == name);
        let version = &package.unwrap_or_else(|| panic!("no {name}")).version;
        let locked = format!("name = \"{name}\"\nversion = \"{version}\"");
        assert!(lock.contains(&locked), "{locked}");
    }
}

/// Requires only published ports, and no capabilities.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_relays_over_tcp_and_quic() {
    let Some(image) = image().await else { return };
    let ports = [
        "--publish=127.0.0.1::9000/tcp",
        "--publish=127.0.0.1::9000/udp",
    ];
    let container = Container::start(image, &ports).await;
    container.wait_until_healthy().await;
    let tcp = format!("/ip4/127.0.0.1/tcp/{}", container.port("9000/tcp").await);
    let quic = format!(
        "/ip4/127.0.0.1/udp/{}/quic-v1",
        container.port("9000/udp").await
    );
    let probe = process::command(&[])
        .args(["probe", "--json", &tcp, &quic])
        .output();
    let probe = probe.await.unwrap();
    let reports = String::from_utf8(probe.stdout).unwrap();
    assert!(probe.status.success(), "{reports}");
    assert_eq!(
        reports
            .lines()
            .filter(|line| line.contains("\"ok\":true"))
            .count(),
        2
    );
}

/// The memory limit of the container becomes the relay's memory limit.
#[tokio::test(flavor = "multi_thread")]
async fn container_memory_limit_is_detected() {
    let Some(image) = image().await else { return };
    let container = Container::start(image, &["--memory=64m"]).await;
    container.wait_until_healthy().await;
    let status = docker(&["exec", &container.id, "/descord-relay", "status"]).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["memory"]["limit"], 64 << 20, "{status}");
}

/// `docker stop` during a circuit: the circuit completes, and the relay exits with code 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_outlives_docker_stop() {
    let Some(image) = image().await else { return };
    let options = [
        "--publish=127.0.0.1::9000/tcp",
        "--env=RELAY_INSTANCE=relay-0",
        &format!("--env=RELAY_IDENTITY_SEED={SEED}"),
        "--env=RELAY_EXTERNAL_ADDRESSES=/ip4/127.0.0.1/tcp/9000",
        "--env=RELAY_DRAIN_DELAY=500ms",
        "--env=RELAY_DRAIN_WINDOW=1s",
    ];
    let container = Container::start(image, &options).await;
    container.wait_until_healthy().await;
    let peer_id = peer_id_of(&Secret::new(SEED), "relay-0");
    let port = container.port("9000/tcp").await;
    let relay = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id}")
        .parse()
        .unwrap();

    let mut target = Client::new(Security::Noise).await;
    let target_id = target.peer_id;
    target.reserve(&relay).await.unwrap();
    let _target = target.echo();
    let mut source = Client::new(Security::Noise).await;
    source.connect(&relay, target_id).await.unwrap();
    let mut streams = source.streams.clone();
    let source = source.run();
    let stream = streams.open_stream(target_id, TEST_PROTOCOL).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    writer.write_all(&[1; 1024]).await.unwrap();

    let stop = command(&["stop", "--time=60", &container.id]).output();
    let stop = tokio::task::spawn(stop);
    // 20 transfers of 250 ms, which take much longer than the drain delay and window.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        writer.write_all(&[1; 1024]).await.unwrap();
    }
    assert!(!stop.is_finished(), "the relay waits for its circuit");
    writer.close().await.unwrap();
    let mut echoed = Vec::new();
    reader.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed.len(), 21 * 1024);
    drop((reader, writer));
    source.abort();
    assert!(stop.await.unwrap().unwrap().status.success());
    let state = &inspect(&container.id).await["State"];
    assert_eq!(state["ExitCode"], 0, "{state}");
}

#[tokio::test]
async fn settings_come_from_files_and_secrets() {
    let Some(image) = image().await else { return };
    let directory = TempDir::new().unwrap();
    let (settings, seed) = (
        directory.path().join("relay.env"),
        directory.path().join("seed"),
    );
    fs::write(
        &settings,
        "RELAY_INSTANCE=relay-7\nRELAY_IDENTITY_SEED_FILE=/run/secrets/seed\n",
    )
    .unwrap();
    fs::write(&seed, format!("{SEED}\n")).unwrap();
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o444)).unwrap();
    let run = [
        "run",
        "--rm",
        "--env-file",
        settings.to_str().unwrap(),
        "--volume",
        &format!("{}:/run/secrets/seed:ro", seed.display()),
        image,
    ];
    let peer_id = docker(&[&run[..], &["identity"]].concat()).await;
    assert_eq!(
        peer_id,
        peer_id_of(&Secret::new(SEED), "relay-7").to_string()
    );

    // Invalid values from an environment file are reported.
    fs::write(
        &settings,
        "RELAY_MAX_CIRCUITS=many\nRELAY_INSTANCES=relay-7\n",
    )
    .unwrap();
    let refused = command(&run).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(64));
    let errors = String::from_utf8(refused.stderr).unwrap();
    for variable in ["RELAY_MAX_CIRCUITS", "RELAY_INSTANCES"] {
        assert!(errors.contains(variable), "{errors}");
    }
}
