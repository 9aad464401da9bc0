//! The relay as PID 1 of a container, for which the kernel ignores every signal without a handler.
//!
//! Needs Linux and the permission to create namespaces; skipped otherwise.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::fs;

use test_support::process::{Relay, kill};
use tokio::process::Command;

/// Flags of `unshare` that run a command as PID 1 of a new PID namespace.
const UNSHARE_FLAGS: [&[&str]; 2] = [
    &["--pid", "--fork", "--kill-child"],
    // Without privileges.
    &[
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
    ],
];

async fn unshare() -> Option<Command> {
    for way in UNSHARE_FLAGS {
        let mut command = Command::new("unshare");
        command.args(way);
        let attempt = command.arg("true").output().await;
        if attempt.is_ok_and(|output| output.status.success()) {
            let mut command = Command::new("unshare");
            command.args(way).env_clear();
            return Some(command);
        }
    }
    println!("skipped: needs the right to make PID namespaces");
    None
}

/// The only child of a process.
fn child(process: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    children.unwrap().trim().parse().unwrap()
}

async fn the_first_process_drains(signal: i32) {
    let Some(mut command) = unshare().await else {
        return;
    };
    command.arg(env!("CARGO_BIN_EXE_descord-relay"));
    let mut relay = Relay::start_as(command).await;
    let process = child(relay.id());
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let ids = status.lines().find(|line| line.starts_with("NSpid:"));
    assert_eq!(ids.unwrap().split_whitespace().last(), Some("1"), "{ids:?}");

    kill(signal, process);
    relay.event("drained").await;
    assert_eq!(relay.exit_code().await, Some(0));
}

#[tokio::test]
async fn sigterm_drains() {
    the_first_process_drains(15).await;
}

#[tokio::test]
async fn sigint_drains() {
    the_first_process_drains(2).await;
}
