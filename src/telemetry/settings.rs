//! The settings of exporters.

use std::{ffi::OsString, fmt, path::PathBuf, time::Duration};

use opentelemetry_sdk::{metrics::Temporality, trace::Sampler};
use reqwest::{Url, header::HeaderMap};

/// The settings of exporters. [`Default`] is that of an empty environment: nothing is pushed, and
/// `/metrics` is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Disables traces and metrics.
    pub disabled: bool,
    /// The resource's `service.name`.
    pub service_name: Option<String>,
    /// More attributes of the resource; they replace the relay's own.
    pub attributes: Vec<(String, String)>,
    /// The propagators of trace context in requests to the admin API.
    pub propagators: Vec<Propagator>,
    /// The export of spans.
    pub traces: TracesSettings,
    /// The export of metrics, apart from `/metrics`.
    pub metrics: MetricsSettings,
}

/// The export of spans.
#[derive(Clone, Debug)]
pub struct TracesSettings {
    /// The collector to push to.
    pub otlp: Option<Destination>,
    /// Whether spans are printed to standard output.
    pub console: bool,
    /// The sampler.
    pub sampler: Sampler,
    /// The span queue.
    pub batch: Batch,
}

/// The span queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Interval between two exports.
    pub delay: Duration,
    /// Maximum number of queued spans, including those of an export in progress.
    pub queue: usize,
    /// Maximum number of spans of one export, at most `queue`.
    pub size: usize,
}

/// The export of metrics.
#[derive(Clone, Debug)]
pub struct MetricsSettings {
    /// The collector to push to.
    pub otlp: Option<Destination>,
    /// Whether metrics are printed to standard output.
    pub console: bool,
    /// Whether `/metrics` is requested. It is served regardless, if there is an admin API.
    pub prometheus: bool,
    /// Interval between two exports.
    pub interval: Duration,
    /// The temporality of counters and histograms.
    pub temporality: Temporality,
}

/// A collector and how to connect to it.
#[derive(Clone)]
pub struct Destination {
    /// The URL, without user and password. Its query may be secret: [`shown`](Self::shown) omits it.
    pub url: Url,
    /// The protocol.
    pub protocol: Protocol,
    /// Headers of every request; secret.
    pub headers: HeaderMap,
    /// Deadline of an export.
    pub timeout: Duration,
    /// Compression of requests.
    pub compression: Compression,
    /// PEM file of the CA certificates to trust, instead of the system store.
    pub certificate: Option<PathBuf>,
    /// PEM file of the private key of the client certificate.
    pub client_key: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub client_certificate: Option<PathBuf>,
}

impl Destination {
    /// The URL without parts that may be secret.
    pub fn shown(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}"));
        let host = self.url.host_str().unwrap_or_default();
        let path = match self.protocol {
            Protocol::Http => self.url.path(),
            Protocol::Grpc => "",
        };
        format!(
            "{}://{host}{}{path}",
            self.url.scheme(),
            port.unwrap_or_default()
        )
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("url", &self.shown())
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// A protocol of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP.
    Http,
    /// gRPC.
    Grpc,
}

/// Compression of requests to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    None,
    /// gzip.
    Gzip,
}

/// A format of trace context in requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagator {
    /// `traceparent` and `tracestate` (W3C).
    TraceContext,
    /// `baggage` (W3C).
    Baggage,
}

impl Settings {
    /// Whether anything is exported, apart from `/metrics`.
    pub(super) fn is_pushing(&self) -> bool {
        let (traces, metrics) = (&self.traces, &self.metrics);
        traces.otlp.is_some() || traces.console || metrics.otlp.is_some() || metrics.console
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_env(Vec::<(OsString, OsString)>::new()).0
    }
}
