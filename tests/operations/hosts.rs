//! Files for hosts without containers: the systemd unit and its environment file.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{fs, path::Path, process::Command, time::Duration};

use tempfile::TempDir;
use test_support::tools;

const BINARY: &str = env!("CARGO_BIN_EXE_descord-relay");

fn text(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    fs::read_to_string(directory.join(name)).unwrap()
}

/// The `NAME=value` lines of a file.
fn settings(text: &str) -> Vec<(&str, &str)> {
    let is_setting = |line: &&str| !line.starts_with('#');
    let lines = text.lines().filter(is_setting);
    lines.filter_map(|line| line.split_once('=')).collect()
}

fn duration(settings: &[(&str, &str)], name: &str) -> Duration {
    let (_, value) = settings.iter().find(|(found, _)| *found == name).unwrap();
    humantime::parse_duration(value).unwrap()
}

#[test]
fn a_restart_by_systemd_cuts_no_circuit() {
    let (unit, environment) = (text("descord-relay.service"), text("relay.env"));
    let environment = settings(&environment);
    let circuit = duration(&environment, "RELAY_MAX_CIRCUIT_DURATION");
    let timeout = duration(&environment, "RELAY_DRAIN_TIMEOUT");
    let delay = duration(&environment, "RELAY_DRAIN_DELAY");
    assert!(circuit < timeout);
    assert!(delay + timeout < duration(&settings(&unit), "TimeoutStopSec"));
    // The relay accepts the file.
    let config = Command::new(BINARY)
        .arg("config")
        .env_clear()
        .envs(environment)
        .output()
        .unwrap();
    assert!(config.status.success(), "{config:?}");
}

#[test]
fn unit_is_valid_and_sandboxed() {
    let installed = tools::run(Command::new("systemd-analyze").arg("--version"));
    if tools::or_skip("systemd-analyze", &installed).is_none() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let unit = directory.path().join("descord-relay.service");
    let here = text("descord-relay.service").replace("/usr/local/bin/descord-relay", BINARY);
    fs::write(&unit, here).unwrap();
    // Ignores errors in other units of the machine.
    let verify = ["verify", "--man=no", "--recursive-errors=no"];
    tools::run(Command::new("systemd-analyze").args(verify).arg(&unit)).unwrap();
    // The scale is 0 for a fully sandboxed service to 10 for an unrestricted one.
    let security = ["security", "--offline=true", "--threshold=20"];
    tools::run(Command::new("systemd-analyze").args(security).arg(&unit)).unwrap();
}
