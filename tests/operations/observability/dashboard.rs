//! The Grafana dashboard.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::observability::{
    names::{assert_known, in_template},
    text,
};

fn dashboard() -> Value {
    serde_json::from_str(&text("observability/dashboard.json")).unwrap()
}

/// The panels, without rows.
fn panels() -> Vec<Value> {
    let all = dashboard()["panels"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|panel| panel["type"] != "row")
        .collect()
}

/// The queries of the panels, with Grafana's variables replaced, and their legend formats.
pub(crate) fn queries() -> Vec<(String, String)> {
    let words = |value: &Value| value.as_str().unwrap().to_owned();
    let targets = panels()
        .into_iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap().clone());
    targets
        .map(|target| {
            let query = words(&target["expr"])
                .replace("$__rate_interval", "1m")
                .replace("$__range", "1h")
                .replace("\"$job\"", "\".+\"")
                .replace("\"$instance\"", "\".+\"");
            assert!(!query.contains('$'), "unknown variable: {query}");
            (query, words(&target["legendFormat"]))
        })
        .collect()
}

#[test]
fn every_series_label_and_value_on_it_exists() {
    for (query, legend) in queries() {
        let labels = assert_known(&query);
        for label in in_template(&legend) {
            assert!(labels.contains(label), "{label:?} is no label of {query}");
        }
    }
    for variable in dashboard()["templating"]["list"].as_array().unwrap() {
        let Some(definition) = variable["definition"].as_str() else {
            continue;
        };
        let inner = definition.strip_prefix("label_values(").unwrap();
        let (query, label) = inner.strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
        assert!(assert_known(query).contains(label), "{definition}");
    }
}

#[test]
fn every_panel_has_a_description_and_a_unit() {
    for panel in panels() {
        for field in ["/title", "/description", "/fieldConfig/defaults/unit"] {
            let text = panel.pointer(field).and_then(Value::as_str);
            assert!(
                text.is_some_and(|text| !text.is_empty()),
                "{field}: {panel}"
            );
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        let is_named = |target: &Value| target["legendFormat"] != "";
        assert!(
            targets.len() == 1 || targets.iter().all(is_named),
            "{panel}"
        );
    }
}

#[test]
fn panels_do_not_overlap() {
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard()["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{panel}");
        }
    }
}
