//! Access rules in a file: reload on change, errors, and partial writes.

use std::{fs, os::unix::fs::symlink, path::Path};

use futures::{AsyncReadExt, AsyncWriteExt};
use tempfile::TempDir;
use test_support::{
    process::{command, is},
    raw::Circuit,
};

use super::*;

const RELOADS: &str = "relay_access_reloads_total";

/// A directory like a Kubernetes `ConfigMap` mount, with a file of this text.
fn mounted(text: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.rules");
    symlink("..data/access.rules", &path).unwrap();
    let path = path.to_str().unwrap().to_owned();
    remount(directory.path(), "..1", text);
    (directory, path)
}

/// Updates it like Kubernetes: a new directory, and a replaced symbolic link.
fn remount(mount: &Path, version: &str, text: &str) {
    fs::create_dir(mount.join(version)).unwrap();
    fs::write(mount.join(version).join("access.rules"), text).unwrap();
    symlink(version, mount.join("..new")).unwrap();
    fs::rename(mount.join("..new"), mount.join("..data")).unwrap();
}

async fn start(path: &str, more: &[(&str, &str)]) -> Relay {
    let variables = [
        ("RELAY_ACCESS_FILE", path),
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
    ];
    Relay::start(&[&variables, more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_mount_changes_the_rules() {
    let (mount, path) = mounted("# nobody yet\n");
    let mut relay = start(&path, &[("RELAY_ACCESS_TARGET_DENY", &key().1)]).await;
    wait_for_metric(&relay, "relay_access_rules", &[], 1.0).await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    let (source, target) = (circuit.source.peer_id, circuit.target.peer_id);

    let text = format!("deny connect {source}\n\ndeny reserve {target} # for a while\n");
    remount(mount.path(), "..2", &text);
    let changed = relay.event("access rules reloaded").await;
    assert_eq!(changed["rules"], 3, "{changed}");
    wait_for_metric(&relay, "relay_access_rules", &[], 3.0).await;
    wait_for_metric(&relay, RELOADS, &[("outcome", "success")], 1.0).await;
    // Renewals and new circuits are denied; the open circuit continues.
    let denied = assert_refused(&mut relay, &mut circuit.target).await;
    assert_eq!(denied["rule"], "RELAY_ACCESS_FILE, line 3", "{denied}");
    let denied = assert_circuit_refused(&mut relay, &mut circuit.source, target).await;
    assert_eq!(denied["rule"], "RELAY_ACCESS_FILE, line 1", "{denied}");
    circuit.near.write_all(b"still here").await.unwrap();
    let mut read = [0; 10];
    circuit.far.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still here");

    remount(mount.path(), "..3", "");
    relay.event("access rules reloaded").await;
    assert_status(&circuit.target.reserve().await, Status::Ok);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_changes_nothing_and_is_reported() {
    let (key, id) = key();
    let (mount, path) = mounted(&format!("allow reserve {id}"));
    let mut relay = start(&path, &[]).await;
    wait_for_metric(&relay, "relay_access_stale", &[], 0.0).await;
    wait_for_metric(&relay, RELOADS, &[("outcome", "failure")], 0.0).await;
    let mut unlisted = Raw::new(&relay.tcp()).await;
    assert_refused(&mut relay, &mut unlisted).await;

    let text = format!("allow reserve {id}\nallow all 192.0.2.1\n");
    remount(mount.path(), "..2", &text);
    let failed = relay.event("RELAY_ACCESS_FILE has changed").await;
    assert_eq!(failed["level"], "ERROR", "{failed}");
    let cause = failed["cause"].as_str().unwrap();
    assert!(cause.starts_with("has invalid lines: line 2 "), "{cause}");
    assert!(
        !cause.contains("192.0.2.1") && !cause.contains(&id),
        "{cause}"
    );
    wait_for_metric(&relay, "relay_access_stale", &[], 1.0).await;
    wait_for_metric(&relay, RELOADS, &[("outcome", "failure")], 1.0).await;
    assert_refused(&mut relay, &mut unlisted).await;

    fs::remove_file(mount.path().join("..data")).unwrap();
    let failed = relay.event("RELAY_ACCESS_FILE has changed").await;
    let cause = failed["cause"].as_str().unwrap();
    assert!(cause.starts_with("cannot be read: "), "{cause}");
    assert_refused(&mut relay, &mut unlisted).await;
    let mut friend = Raw::with_key(key, &relay.tcp()).await;
    assert_status(&friend.reserve().await, Status::Ok);

    remount(mount.path(), "..3", "deny target none_of_these # not yet\n");
    relay.event("RELAY_ACCESS_FILE has changed").await;
    fs::write(mount.path().join("..3/access.rules"), "").unwrap();
    relay.event("access rules reloaded").await;
    wait_for_metric(&relay, "relay_access_stale", &[], 0.0).await;
    assert_status(&unlisted.reserve().await, Status::Ok);
    relay.stop().await;
}

/// Without its rules, a relay would accept every peer.
#[tokio::test]
async fn a_relay_does_not_start_without_its_rules() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.rules");
    fs::write(&path, "allow reserve nobody\ndeny\n").unwrap();
    let missing = directory.path().join("missing");
    for (path, expected) in [
        (&path, "has invalid lines: line 1 "),
        (&path, "; line 2 "),
        (&missing, "cannot be read: No such file"),
    ] {
        let path = path.to_str().unwrap();
        for arguments in [&[][..], &["config"]] {
            let output = command(&[("RELAY_ACCESS_FILE", path)])
                .args(arguments)
                .output();
            let output = tokio::time::timeout(PATIENCE, output)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(output.status.code(), Some(64));
            let error = String::from_utf8(output.stderr).unwrap();
            let start = format!("RELAY_ACCESS_FILE: {path:?} ");
            assert!(error.starts_with(&start), "{error}");
            assert!(error.contains(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

/// Rules are loaded when the file has been unchanged for a second, so partial content is never applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_partially_written_file_is_not_loaded() {
    let (mount, path) = mounted("allow reserve none");
    let mut relay = start(&path, &[]).await;
    let file = mount.path().join("..1/access.rules");
    let mut unlisted = Raw::new(&relay.tcp()).await;
    // Incomplete content for longer than the polling interval, changed more often than once a second.
    for number in 0..30 {
        fs::write(&file, "# so far nobody\n".repeat(number)).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_status(&unlisted.reserve().await, Status::PermissionDenied);
    fs::write(&file, "allow reserve 127.0.0.0/8").unwrap();
    relay.event("access rules reloaded").await;
    assert_status(&unlisted.reserve().await, Status::Ok);
    let changes = relay.stop().await;
    let changes = changes.iter().filter(|e| is(e, "access rules reloaded"));
    assert_eq!(changes.count(), 1);
}
