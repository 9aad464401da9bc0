//! The alert rules and their unit tests.

use std::process::Command;

use crate::observability::{file, prometheus, text};
use test_support::tools::run;

pub(crate) const RULES: &str = "observability/alerts.yaml";
/// Unit tests of the alerts: series for which each must and must not fire.
pub(crate) const TESTS: &str = "tests/observability/alerts_test.yaml";

fn promtool(what: [&str; 2], path: &str) {
    if prometheus().is_some() {
        run(Command::new("promtool").args(what).arg(file(path))).unwrap();
    }
}

#[test]
fn prometheus_accepts_the_rules() {
    promtool(["check", "rules"], RULES);
}

#[test]
fn alert_unit_tests_pass() {
    promtool(["test", "rules"], TESTS);
}

#[test]
fn every_alert_has_a_test() {
    let (rules, tests) = (text(RULES), text(TESTS));
    let alerts = rules
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- alert: "));
    let mut number = 0;
    for alert in alerts {
        assert!(
            tests.contains(&format!("{{alertname=\"{alert}\"")),
            "{alert}"
        );
        number += 1;
    }
    assert!(number > 0);
}
