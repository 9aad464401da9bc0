//! What is exported, where to, and how.

use std::{ffi::OsString, fmt, path::PathBuf, time::Duration};

use opentelemetry_sdk::{metrics::Temporality, trace::Sampler};
use reqwest::{Url, header::HeaderMap};

/// What is exported, where to, and how. [`Default`] is what an empty environment gives: nothing is
/// pushed, and `/metrics` is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// No traces and no metrics at all.
    pub disabled: bool,
    /// The resource's `service.name`.
    pub service_name: Option<String>,
    /// More attributes of the resource; they win over what the relay says of itself.
    pub attributes: Vec<(String, String)>,
    /// Whose traces a request may continue.
    pub propagators: Vec<Propagator>,
    /// What becomes of spans.
    pub traces: TracesSettings,
    /// What becomes of metrics, apart from `/metrics`.
    pub metrics: MetricsSettings,
}

/// What becomes of spans.
#[derive(Clone, Debug)]
pub struct TracesSettings {
    /// The collector to push to.
    pub otlp: Option<Destination>,
    /// Whether they are printed.
    pub console: bool,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// How they are collected.
    pub batch: Batch,
}

/// How spans are collected until they are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Time between two exports.
    pub delay: Duration,
    /// Spans that may wait, those on their way included.
    pub queue: usize,
    /// Spans of one export, at most `queue`.
    pub size: usize,
}

/// What becomes of metrics.
#[derive(Clone, Debug)]
pub struct MetricsSettings {
    /// The collector to push to.
    pub otlp: Option<Destination>,
    /// Whether they are printed.
    pub console: bool,
    /// Whether `/metrics` was asked for. It is served anyway, if there is a server.
    pub prometheus: bool,
    /// Time between two exports.
    pub interval: Duration,
    /// Totals or differences.
    pub temporality: Temporality,
}

/// A collector, and how it is spoken to.
#[derive(Clone)]
pub struct Destination {
    /// Where requests go, without user and password. A query may be a secret as well:
    /// [`shown`](Self::shown) has none.
    pub url: Url,
    /// In which protocol.
    pub protocol: Protocol,
    /// Headers of every request; secret.
    pub headers: HeaderMap,
    /// How long an export may take.
    pub timeout: Duration,
    /// How requests are compressed.
    pub compression: Compression,
    /// PEM file of the certificates that may vouch for the collector; the system's without it.
    pub certificate: Option<PathBuf>,
    /// PEM file of the private key of the relay's own certificate.
    pub client_key: Option<PathBuf>,
    /// PEM file of the certificate that the relay shows.
    pub client_certificate: Option<PathBuf>,
}

impl Destination {
    /// The URL without what may be secret in it.
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

/// A protocol of collectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP.
    Http,
    /// gRPC.
    Grpc,
}

/// How requests to the collector are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
}

/// A way in which requests say to which trace they belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagator {
    /// `traceparent` and `tracestate`, by the W3C.
    TraceContext,
    /// `baggage`, by the W3C.
    Baggage,
}

impl Settings {
    /// Whether anything is exported at all, apart from `/metrics`.
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
