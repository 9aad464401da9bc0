//! From raw values to settings: defaults and precedence.
//!
//! The variable of one signal takes precedence over the one for all signals.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;
use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderValue},
};

use super::raw::{EndpointAddress, Exporter, RawConfig, RawOtlp, SamplerKind};
use crate::telemetry::settings::{
    Batch, Compression, Destination, MetricsSettings, Propagator, Protocol, Settings,
    TracesSettings,
};

/// Default deadline of an export.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A signal that is exported over OTLP.
pub(super) struct Signal<'a> {
    /// Its name in the names of variables.
    pub(super) name: &'static str,
    /// The path that is appended to the endpoint for all signals.
    pub(super) path: &'static str,
    pub(super) all: &'a RawOtlp,
    pub(super) own: &'a RawOtlp,
}

impl SamplerKind {
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

impl RawConfig {
    /// The settings; adds warnings for the operator.
    pub(super) fn settings(
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
        let has = |exporter, exporters: Option<&Vec<Exporter>>| {
            !disabled && exporters.is_some_and(|e| e.contains(&exporter))
        };
        let limit = Duration::from_secs(30);
        let queue = self.batch.queue.unwrap_or(2048);
        Settings {
            disabled,
            traces: TracesSettings {
                otlp: destination(
                    traces,
                    self.traces_exporters.as_ref(),
                    self.batch.timeout.unwrap_or(limit),
                ),
                console: has(Exporter::Console, self.traces_exporters.as_ref()),
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
            metrics: MetricsSettings {
                otlp: destination(
                    metrics,
                    self.metrics_exporters.as_ref(),
                    self.metric_timeout.unwrap_or(limit),
                ),
                console: has(Exporter::Console, self.metrics_exporters.as_ref()),
                prometheus: has(Exporter::Prometheus, self.metrics_exporters.as_ref()),
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
    /// The value for this signal, or else the value for all signals.
    fn pick<T: Clone>(&self, field: impl Fn(&RawOtlp) -> &Option<T>) -> Option<T> {
        field(self.own).clone().or_else(|| field(self.all).clone())
    }

    /// `None`, with a warning, if the endpoint cannot be used. `limit` is another bound on the duration
    /// of an export.
    fn destination(&self, limit: Duration, warnings: &mut Vec<String>) -> Option<Destination> {
        let protocol = self.pick(|otlp| &otlp.protocol).unwrap_or(Protocol::Http);
        let mut url = match self.url(protocol) {
            Ok(url) => url,
            Err(warning) => {
                // Both signals may have the same problem.
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
                return None;
            }
        };
        let mut headers = self.pick(|otlp| &otlp.headers).unwrap_or_default();
        if let Some(credentials) = take_credentials(&mut url) {
            headers.entry(AUTHORIZATION).or_insert(credentials);
        }
        Some(Destination {
            url,
            protocol,
            headers,
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
        let Some(EndpointAddress { url, without_tls }) = address else {
            let default = Url::parse(default).map_err(|error| error.to_string())?;
            return Ok(self.with_path(default, protocol));
        };
        match without_tls {
            Some(_) if protocol == Protocol::Http => Err(format!(
                "{name} is ignored: with http/protobuf it must start with http:// or https://"
            )),
            Some(url) if self.pick(|otlp| &otlp.insecure) == Some(true) => Ok(url.clone()),
            _ if self.own.endpoint.is_some() => Ok(url.clone()),
            _ => Ok(self.with_path(url.clone(), protocol)),
        }
    }

    /// Over HTTP, the endpoint for all signals is extended by the path of the signal.
    fn with_path(&self, mut url: Url, protocol: Protocol) -> Url {
        if protocol == Protocol::Http {
            let path = format!("{}/{}", url.path().trim_end_matches('/'), self.path);
            url.set_path(&path);
        }
        url
    }
}

/// Moves user and password from `url` to an `Authorization` header.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text| percent_decode_str(text).collect::<Vec<_>>();
    let (user, password) = (url.username(), url.password().unwrap_or_default());
    let pair = [decode(user), b":".to_vec(), decode(password)].concat();
    // It fails only for URLs without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}
