//! The js program of `docs/clients.md`, as it is printed there.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use test_support::{PATIENCE, js, process::Relay};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use super::address;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn page() -> String {
    fs::read_to_string(Path::new(ROOT).join("docs/clients.md")).unwrap()
}

/// A directory with the program and its packages.
fn project() -> TempDir {
    let page = page();
    let (_, rest) = page.split_once("```js\n").unwrap();
    let (program, _) = rest.split_once("\n```").unwrap();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("peer.mjs"), program).unwrap();
    let modules = Path::new(ROOT).join("tests/js/node_modules");
    symlink(modules, directory.path().join("node_modules")).unwrap();
    directory
}

fn program(node: &Path, project: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(node);
    command
        .arg("peer.mjs")
        .args(arguments)
        .current_dir(project.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn greets(node: &Path, project: &TempDir, relay: &str, peer: &str) {
    let mut dialer = program(node, project, &[relay, peer]);
    let Output { status, stdout, .. } = timeout(PATIENCE, dialer.output()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(
        String::from_utf8(stdout).unwrap(),
        "hello from the other side\n"
    );
}

#[tokio::test]
async fn the_documented_client_returns_to_a_restarted_relay() {
    let Some(node) = js::node() else { return };
    let mut relay = Relay::start(&[
        ("RELAY_IDENTITY_SEED", "the-documented-client-is-tested"),
        ("RELAY_INSTANCE", "relay-1"),
        ("RELAY_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/0"),
        ("RELAY_DRAIN_WINDOW", "1s"),
    ])
    .await;
    let relay_address = address(&relay, "tcp");
    let project = project();
    let mut listener = program(node, &project, &[&relay_address]).spawn().unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let peer_address = timeout(PATIENCE, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(
        peer_address.starts_with(&format!("{relay_address}/p2p-circuit/p2p/")),
        "{peer_address}"
    );
    greets(node, &project, &relay_address, &peer_address).await;

    relay.signal(15);
    assert_eq!(relay.exit_code().await, Some(0));
    let (listens_on, _) = relay_address.split_once("/p2p/").unwrap();
    let mut relay = Relay::start(&[
        ("RELAY_IDENTITY_SEED", "the-documented-client-is-tested"),
        ("RELAY_INSTANCE", "relay-1"),
        ("RELAY_LISTEN_ADDRESSES", listens_on),
    ])
    .await;
    relay.event("reservation accepted").await;
    greets(node, &project, &relay_address, &peer_address).await;
}

#[test]
fn documented_packages_are_those_that_are_tested() {
    let manifest = fs::read(Path::new(ROOT).join("tests/js/package.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let page = page();
    let (_, rest) = page.split_once("npm install ").unwrap();
    let (command, _) = rest.split_once("\n```").unwrap();
    let packages: Vec<_> = command
        .split_whitespace()
        .filter(|word| *word != "\\")
        .collect();
    assert!(packages.len() > 5, "{packages:?}");
    for package in packages {
        let (name, version) = package.rsplit_once('@').unwrap();
        assert_eq!(manifest["dependencies"][name], version, "{name}");
    }
}
