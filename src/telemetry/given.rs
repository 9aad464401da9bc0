//! What the `OTEL_*` variables say, and what follows from it.
//!
//! The rules are those of OpenTelemetry: empty counts as not set, what is not allowed is ignored
//! with a warning, and a variable for one signal wins over the one for all. Nothing in here reads
//! the environment of the process: pairs are passed in.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

use opentelemetry_sdk::{metrics::Temporality, trace::Sampler};
use reqwest::{Url, header::HeaderMap};

use super::{
    settings::{Batch, Compression, Destination, Metrics, Propagator, Protocol, Settings, Traces},
    variables::{Field, VARIABLES, Variable},
};

/// How long an export may take unless a variable says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Values longer than this many characters are cut in warnings.
const MAX_SHOWN: usize = 200;

/// Where a signal goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Exporter {
    Otlp,
    Console,
    Prometheus,
}

/// How it is decided which traces are recorded.
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

    fn sampler(self, ratio: f64) -> Sampler {
        let by_parent = |root| Sampler::ParentBased(Box::new(root));
        match self {
            Self::On => Sampler::AlwaysOn,
            Self::Off => Sampler::AlwaysOff,
            Self::Ratio => Sampler::TraceIdRatioBased(ratio),
            Self::ParentOn => by_parent(Sampler::AlwaysOn),
            Self::ParentOff => by_parent(Sampler::AlwaysOff),
            Self::ParentRatio => by_parent(Sampler::TraceIdRatioBased(ratio)),
        }
    }
}

/// What the variables say; `None` where they say nothing.
#[derive(Default)]
pub(super) struct Given {
    pub(super) disabled: Option<bool>,
    pub(super) service_name: Option<String>,
    pub(super) attributes: Option<Vec<(String, String)>>,
    pub(super) propagators: Option<Vec<Propagator>>,
    pub(super) traces_exporters: Option<Vec<Exporter>>,
    pub(super) metrics_exporters: Option<Vec<Exporter>>,
    pub(super) sampler: Option<SamplerKind>,
    pub(super) sampler_ratio: Option<f64>,
    pub(super) batch: GivenBatch,
    pub(super) metric_interval: Option<Duration>,
    pub(super) metric_timeout: Option<Duration>,
    pub(super) temporality: Option<Temporality>,
}

#[derive(Default)]
pub(super) struct GivenBatch {
    pub(super) delay: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) queue: Option<usize>,
    pub(super) size: Option<usize>,
}

/// What the variables say that each signal has a form of.
#[derive(Default)]
pub(super) struct GivenOtlp {
    pub(super) endpoint: Option<Address>,
    pub(super) protocol: Option<Protocol>,
    pub(super) headers: Option<HeaderMap>,
    pub(super) timeout: Option<Duration>,
    pub(super) compression: Option<Compression>,
    pub(super) insecure: Option<bool>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) client_certificate: Option<PathBuf>,
}

/// An endpoint as it is written.
pub(super) struct Address {
    pub(super) url: Url,
    /// The same without TLS, if it is written without a scheme.
    pub(super) without_tls: Option<Url>,
}

/// One of the signals that are pushed.
struct Signal<'a> {
    /// As in the names of variables.
    name: &'static str,
    /// What is appended to the endpoint for all signals.
    path: &'static str,
    all: &'a GivenOtlp,
    own: &'a GivenOtlp,
}

impl Settings {
    /// Reads the pairs of an environment, for instance `std::env::vars_os()`, and gives what the
    /// operator should be told of them as well. Nothing is so wrong that the relay could not run.
    pub fn from_env<K, V>(vars: impl IntoIterator<Item = (K, V)>) -> (Self, Vec<String>)
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let vars: BTreeMap<OsString, OsString> = vars
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let mut given = Given::default();
        let [mut all, mut traces, mut metrics] = <[GivenOtlp; 3]>::default();
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
                Field::One(set) => read(variable.name, &mut |text| set(&mut given, text)),
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
        let settings = given.settings(&traces, &metrics, &mut warnings);
        (settings, warnings)
    }
}

impl Given {
    fn settings(
        self,
        traces: &Signal<'_>,
        metrics: &Signal<'_>,
        warnings: &mut Vec<String>,
    ) -> Settings {
        let disabled = self.disabled.unwrap_or(false);
        let mut destination = |signal: &Signal<'_>, exporters: Option<&Vec<Exporter>>, limit| {
            let is_wanted = match exporters {
                Some(exporters) => exporters.contains(&Exporter::Otlp),
                None => signal.own.endpoint.is_some() || signal.all.endpoint.is_some(),
            };
            let is_wanted = is_wanted && !disabled;
            is_wanted.then(|| signal.destination(limit, warnings))?
        };
        let has_console = |exporters: Option<&Vec<Exporter>>| {
            !disabled && exporters.is_some_and(|e| e.contains(&Exporter::Console))
        };
        let limit = Duration::from_secs(30);
        let queue = self.batch.queue.unwrap_or(2048);
        Settings {
            disabled,
            traces: Traces {
                otlp: destination(
                    traces,
                    self.traces_exporters.as_ref(),
                    self.batch.timeout.unwrap_or(limit),
                ),
                console: has_console(self.traces_exporters.as_ref()),
                sampler: self
                    .sampler
                    .unwrap_or(SamplerKind::ParentOn)
                    .sampler(self.sampler_ratio.unwrap_or(1.0)),
                batch: Batch {
                    delay: self.batch.delay.unwrap_or(Duration::from_secs(5)),
                    queue,
                    size: self.batch.size.unwrap_or(512).min(queue),
                },
            },
            metrics: Metrics {
                otlp: destination(
                    metrics,
                    self.metrics_exporters.as_ref(),
                    self.metric_timeout.unwrap_or(limit),
                ),
                console: has_console(self.metrics_exporters.as_ref()),
                interval: self.metric_interval.unwrap_or(Duration::from_secs(60)),
                temporality: self.temporality.unwrap_or_default(),
            },
            service_name: self.service_name,
            attributes: self.attributes.unwrap_or_default(),
            propagators: self
                .propagators
                .unwrap_or_else(|| vec![Propagator::TraceContext, Propagator::Baggage]),
        }
    }
}

impl Signal<'_> {
    /// What holds for this signal: its own value, or else the one for all.
    fn pick<T: Clone>(&self, field: impl Fn(&GivenOtlp) -> &Option<T>) -> Option<T> {
        field(self.own).clone().or_else(|| field(self.all).clone())
    }

    /// `None` when the endpoint cannot be used; the warning says so. `limit` is another bound on
    /// how long an export may take.
    fn destination(&self, limit: Duration, warnings: &mut Vec<String>) -> Option<Destination> {
        let protocol = self.pick(|otlp| &otlp.protocol).unwrap_or(Protocol::Http);
        let url = match self.url(protocol) {
            Ok(url) => url,
            Err(warning) => {
                // Both signals may find the same wrong.
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
                return None;
            }
        };
        Some(Destination {
            url,
            protocol,
            headers: self.pick(|otlp| &otlp.headers).unwrap_or_default(),
            timeout: self
                .pick(|otlp| &otlp.timeout)
                .unwrap_or(TIMEOUT)
                .min(limit),
            compression: self
                .pick(|otlp| &otlp.compression)
                .unwrap_or(Compression::None),
            certificate: self.pick(|otlp| &otlp.certificate),
            client_key: self.pick(|otlp| &otlp.client_key),
            client_certificate: self.pick(|otlp| &otlp.client_certificate),
        })
    }

    fn url(&self, protocol: Protocol) -> Result<Url, String> {
        let (name, address) = match (&self.own.endpoint, &self.all.endpoint) {
            (Some(own), _) => (
                format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", self.name),
                Some(own),
            ),
            (None, all) => ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), all.as_ref()),
        };
        let default = match protocol {
            Protocol::Http => "http://localhost:4318",
            Protocol::Grpc => "http://localhost:4317",
        };
        let Some(Address { url, without_tls }) = address else {
            let default = Url::parse(default).map_err(|error| error.to_string())?;
            return Ok(self.with_path(default, protocol));
        };
        match without_tls {
            Some(_) if protocol == Protocol::Http => Err(format!(
                "{name} is ignored: with http/protobuf it has to start with http:// or https://"
            )),
            Some(url) if self.pick(|otlp| &otlp.insecure) == Some(true) => Ok(url.clone()),
            _ if self.own.endpoint.is_some() => Ok(url.clone()),
            _ => Ok(self.with_path(url.clone(), protocol)),
        }
    }

    /// The endpoint for all signals has one path for each, with HTTP.
    fn with_path(&self, mut url: Url, protocol: Protocol) -> Url {
        if protocol == Protocol::Http {
            let path = format!("{}/{}", url.path().trim_end_matches('/'), self.path);
            url.set_path(&path);
        }
        url
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
