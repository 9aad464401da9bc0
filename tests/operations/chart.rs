//! The Helm chart, validated by Helm, by the Kubernetes schemas, and by the relay.
//!
//! The tests are in Python (`tests/chart/test_*.py`), because they process YAML. They need npm and Python
//! 3.11 or newer with `venv`; `.ci/chart-tools` installs everything else into the target directory on the
//! first run.

use std::{path::Path, process::Command};

use test_support::tools;

#[test]
fn the_chart() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = tools::run(&mut Command::new(project.join(".ci/chart-tools")));
    if tools::or_skip("npm and Python 3.11", &installed).is_none() {
        return;
    }
    let status = Command::new(project.join("target/chart-tools/venv/bin/python"))
        .args(["-B", "-m", "unittest"])
        .current_dir(project.join("tests/chart"))
        .env("RELAY_BIN", env!("CARGO_BIN_EXE_descord-relay"))
        .status()
        .unwrap();
    assert!(
        status.success(),
        "the chart tests failed, see the output above"
    );
}
