//! The raw values of `OTEL_*` variables.
//!
//! The rules are those of OpenTelemetry: an empty value means unset, and an invalid value is ignored
//! with a warning. This module never reads the process environment: pairs are passed in.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

use opentelemetry_sdk::metrics::Temporality;
use reqwest::{Url, header::HeaderMap};

use super::{
    config::Signal,
    table::{Field, VARIABLES, Variable},
};
use crate::telemetry::settings::{Compression, Propagator, Protocol, Settings};

/// Longer values are cut in warnings, in characters.
const MAX_SHOWN: usize = 200;

/// An exporter of a signal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Exporter {
    Otlp,
    Console,
    Prometheus,
}

/// A sampler of traces.
#[derive(Clone, Copy)]
pub(super) enum SamplerKind {
    On,
    Off,
    Ratio,
    ParentOn,
    ParentOff,
    ParentRatio,
}

impl SamplerKind {
    pub(super) const NAMES: &[(&str, Self)] = &[
        ("always_on", Self::On),
        ("always_off", Self::Off),
        ("traceidratio", Self::Ratio),
        ("parentbased_always_on", Self::ParentOn),
        ("parentbased_always_off", Self::ParentOff),
        ("parentbased_traceidratio", Self::ParentRatio),
    ];
}

/// The values of all variables; `None` if unset.
#[derive(Default)]
pub(super) struct RawConfig {
    pub(super) disabled: Option<bool>,
    pub(super) service_name: Option<String>,
    pub(super) attributes: Option<Vec<(String, String)>>,
    pub(super) propagators: Option<Vec<Propagator>>,
    pub(super) traces_exporters: Option<Vec<Exporter>>,
    pub(super) metrics_exporters: Option<Vec<Exporter>>,
    pub(super) sampler: Option<SamplerKind>,
    pub(super) sampler_ratio: Option<f64>,
    pub(super) batch: RawBatch,
    pub(super) metric_interval: Option<Duration>,
    pub(super) metric_timeout: Option<Duration>,
    pub(super) temporality: Option<Temporality>,
}

#[derive(Default)]
pub(super) struct RawBatch {
    pub(super) delay: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) queue: Option<usize>,
    pub(super) size: Option<usize>,
}

/// The values of variables that also have a form for each signal.
#[derive(Default)]
pub(super) struct RawOtlp {
    pub(super) endpoint: Option<EndpointAddress>,
    pub(super) protocol: Option<Protocol>,
    pub(super) headers: Option<HeaderMap>,
    pub(super) timeout: Option<Duration>,
    pub(super) compression: Option<Compression>,
    pub(super) insecure: Option<bool>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) client_certificate: Option<PathBuf>,
}

/// An endpoint.
pub(super) struct EndpointAddress {
    pub(super) url: Url,
    /// The same without TLS, if the value has no scheme.
    pub(super) without_tls: Option<Url>,
}

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
        let start: String = value.chars().take(MAX_SHOWN).collect();
        format!("{start:?}")
    };
    format!("{name}: {shown} is ignored; allowed: {}", variable.allowed)
}
