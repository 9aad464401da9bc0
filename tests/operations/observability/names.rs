//! The series, labels and label values that queries may use.

use std::collections::{BTreeMap, BTreeSet};

use descord_relay::metrics::{Attribute, DNS_INSTRUMENTS, INSTRUMENTS, InstrumentKind};
use test_support::prometheus::{label, name};

use crate::observability::promql::{Series, used};

/// Labels that a scrape adds to every series.
const TARGET: [&str; 2] = ["job", "instance"];

/// The series of all instruments with their attributes, and the series of the scrape itself.
fn known() -> BTreeMap<String, &'static [Attribute]> {
    let mut known = BTreeMap::from([("up".to_owned(), &[][..])]);
    for instrument in INSTRUMENTS.iter().chain(DNS_INSTRUMENTS) {
        let suffixes: &[&str] = match instrument.kind {
            InstrumentKind::Histogram(_) => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for suffix in suffixes {
            let series = format!("{}{suffix}", name(instrument));
            known.insert(series, instrument.prometheus_attributes());
        }
    }
    known
}

/// The labels of a series. Panics if it does not exist.
fn labels(series: &Series, query: &str) -> BTreeSet<String> {
    let known = known();
    let attributes = known
        .get(&series.name)
        .unwrap_or_else(|| panic!("there is no {} as in {query}", series.name));
    for (key, values) in &series.labels {
        if TARGET.contains(&key.as_str()) {
            continue;
        }
        let attribute = attributes.iter().find(|a| label(a.key) == *key);
        let attribute =
            attribute.unwrap_or_else(|| panic!("{} has no {key} as in {query}", series.name));
        for value in values {
            let is_known = attribute.values.contains(&value.as_str());
            assert!(is_known, "{key} is never {value:?} as in {query}");
        }
    }
    let le = series.name.ends_with("_bucket").then(|| "le".to_owned());
    let own = attributes.iter().map(|attribute| label(attribute.key));
    own.chain(TARGET.map(str::to_owned)).chain(le).collect()
}

/// Asserts that all series and labels of `query` exist. Returns the labels that its result may have.
pub(crate) fn assert_known(query: &str) -> BTreeSet<String> {
    let used = used(query);
    assert!(!used.series.is_empty(), "{query}");
    let all: BTreeSet<_> = used.series.iter().flat_map(|s| labels(s, query)).collect();
    for grouped in &used.grouped {
        assert!(all.contains(grouped), "nothing has {grouped} in {query}");
    }
    all
}

/// The labels in a template, such as `{{ $labels.name }}` or `{{name}}`.
pub(crate) fn in_template(template: &str) -> Vec<&str> {
    template
        .split("{{")
        .skip(1)
        .map(|rest| rest.split_once("}}").unwrap().0.trim())
        .filter(|word| !word.starts_with("$value"))
        .map(|word| word.trim_start_matches("$labels."))
        .collect()
}

#[test]
fn missing_names_are_found() {
    for query in [
        "relay_circuits",
        "relay_circuit_duration_seconds",
        r#"relay_phase{phase="lost"}"#,
        r#"relay_phase{phase=~"ready|lost"}"#,
        r#"relay_phase{reason="ready"}"#,
        "sum by (reason) (relay_phase)",
        "sum by (le) (relay_circuit_duration_seconds_count)",
    ] {
        let found = std::panic::catch_unwind(|| assert_known(query));
        assert!(found.is_err(), "{query}: {found:?}");
    }
}
