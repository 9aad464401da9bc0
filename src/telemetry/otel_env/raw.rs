//! The raw values of `OTEL_*` variables, before defaults are applied.

use std::{path::PathBuf, time::Duration};

use opentelemetry_sdk::metrics::Temporality;
use reqwest::{Url, header::HeaderMap};

use crate::telemetry::settings::{Compression, Propagator, Protocol};

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
