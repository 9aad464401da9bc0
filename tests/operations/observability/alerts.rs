//! The alert rules and their unit tests.

use std::{collections::BTreeSet, process::Command};

use circuit_relay::DenyReason;
use test_support::tools::run;

use crate::observability::{
    dashboard::queries,
    file, prometheus,
    promql::{Used, used},
    text,
};

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

/// Reasons of denied requests that do not count for `RelayDenialsHigh`.
const REASONS_WITHOUT_ALERT: [&str; 21] = [
    // The operator's decision. `RelayAccessUndecided` covers an endpoint that fails.
    "access_rules",
    "access_decision",
    "access_unavailable",
    "access_busy",
    // A single peer or address exceeds its rate.
    "rate_reservations_per_peer",
    "rate_reservations_per_ip",
    "rate_circuits_per_peer",
    "rate_circuits_per_ip",
    // A drain.
    "draining",
    "drain_deadline",
    "drain_closing",
    // Behaviour of the client or of the target.
    "relayed_connection",
    "connect_to_self",
    "disconnected",
    "no_reservation",
    "evicted",
    "stop_failed",
    "malformed_message",
    "unexpected_message",
    "request_timeout",
    "answer_undelivered",
];

/// For each series of denied requests in a query, the values of its label `reason`.
fn denial_reasons(used: &Used) -> Vec<BTreeSet<&str>> {
    let labels = used.series.iter().flat_map(|series| &series.labels);
    labels
        .filter(|(label, _)| label == "reason")
        .map(|(_, values)| values.iter().map(String::as_str).collect())
        .collect()
}

/// A new reason belongs in the alert and the dashboard, or into `REASONS_WITHOUT_ALERT`.
#[test]
fn every_reason_of_a_denial_has_an_alert_or_is_excluded() {
    let all: BTreeSet<_> = DenyReason::METRIC_VALUES.iter().copied().collect();
    let excluded = BTreeSet::from(REASONS_WITHOUT_ALERT);
    let requests: BTreeSet<_> = all.difference(&excluded).copied().collect();
    let mut denials = requests.clone();
    assert!(denials.remove("none"));

    let rules = text(RULES);
    let (_, rule) = rules.split_once("alert: RelayDenialsHigh").unwrap();
    let (_, rule) = rule.split_once("expr: >-").unwrap();
    let (query, _) = rule.split_once("for:").unwrap();
    let used_by_alert = used(query);
    assert_eq!(
        denial_reasons(&used_by_alert),
        [denials.clone(), requests.clone()],
        "{RULES}"
    );

    let is_of_denials = |query: &String| query.contains("|max_reservations|");
    let queries: Vec<_> = queries().into_iter().map(|(query, _)| query).collect();
    let panels: Vec<_> = queries.into_iter().filter(is_of_denials).collect();
    assert!(!panels.is_empty());
    for query in panels {
        let used_by_panel = used(&query);
        let reasons = denial_reasons(&used_by_panel);
        assert_eq!(reasons, [denials.clone(), requests.clone()], "{query}");
    }
}
