//! The alert rules, by themselves.

use std::process::Command;

use test_support::tools::run;

use crate::observability::{file, prometheus, text};

pub(crate) const RULES: &str = "observability/alerts.yaml";
/// What every alert has to fire for, and not to.
pub(crate) const TESTS: &str = "tests/observability/alerts_test.yaml";

fn promtool(what: [&str; 2], path: &str) {
    if prometheus().is_some() {
        run(Command::new("promtool").args(what).arg(file(path))).unwrap();
    }
}

#[test]
fn prometheus_takes_the_rules() {
    promtool(["check", "rules"], RULES);
}

#[test]
fn every_alert_fires_for_its_trouble_and_is_quiet_otherwise() {
    promtool(["test", "rules"], TESTS);
}

#[test]
fn no_alert_lacks_a_test() {
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
