//! Reads `OTEL_*` variables.
//!
//! The rules are those of OpenTelemetry: an empty value means unset, and an invalid value is ignored
//! with a warning. This module never reads the process environment: pairs are passed in.

use std::{collections::BTreeMap, ffi::OsString};

use super::{
    config::Signal,
    raw::{RawConfig, RawOtlp},
    table::{Field, VARIABLES, Variable},
    unknown,
};
use crate::{telemetry::settings::Settings, variable::quote};

impl Settings {
    /// Parses the pairs of an environment, such as `std::env::vars_os()`, and returns warnings for the
    /// operator. No environment is an error.
    pub fn from_env<K, V>(vars: impl IntoIterator<Item = (K, V)>) -> (Self, Vec<String>)
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let vars: BTreeMap<OsString, OsString> = vars
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let mut raw = RawConfig::default();
        let [mut all, mut traces, mut metrics] = <[RawOtlp; 3]>::default();
        let mut warnings = Vec::new();
        for variable in VARIABLES {
            let mut read = |name: &str, set: &mut dyn FnMut(&str) -> Option<()>| {
                if let Some(value) = vars.get(&OsString::from(name)) {
                    let text = value.to_str().map(str::trim);
                    if text != Some("") && text.and_then(set).is_none() {
                        warnings.push(refusal(variable, name, &value.to_string_lossy()));
                    }
                }
            };
            match variable.field {
                Field::One(set) => read(variable.name, &mut |text| set(&mut raw, text)),
                Field::Signals(set) => {
                    read(variable.name, &mut |text| set(&mut all, text));
                    for (signal, own) in [("TRACES", &mut traces), ("METRICS", &mut metrics)] {
                        if let Some(name) = variable.name_for(signal) {
                            read(&name, &mut |text| set(own, text));
                        }
                    }
                }
            }
        }
        warnings.extend(vars.keys().filter_map(unknown::warning));
        let traces = Signal {
            name: "TRACES",
            path: "v1/traces",
            all: &all,
            own: &traces,
        };
        let metrics = Signal {
            name: "METRICS",
            path: "v1/metrics",
            all: &all,
            own: &metrics,
        };
        let settings = raw.settings(&traces, &metrics, &mut warnings);
        (settings, warnings)
    }
}

/// The warning about a value that is ignored.
fn refusal(variable: &Variable, name: &str, value: &str) -> String {
    // An endpoint may contain a password.
    let shown = if variable.is_secret || value.contains('@') {
        "***".to_owned()
    } else {
        quote(value)
    };
    format!("{name}: {shown} is ignored; allowed: {}", variable.allowed)
}
