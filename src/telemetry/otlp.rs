//! The exporters that push to a collector.
//!
//! The exporter builders read environment variables for everything that is not set explicitly, so
//! everything is set from [`Settings`], to avoid a second interpretation of the same variables. The
//! exception is the compression "none", which cannot be set: it is left out, and then the variables
//! do not set it either.
//!
//! [`Settings`]: super::settings::Settings

use std::sync::Arc;

use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use opentelemetry_sdk::metrics::Temporality;
use tokio::runtime::Handle;

use super::{
    export_health::ExportHealth,
    exporter::{LastExportError, MonitoredExporter},
    otlp_grpc,
    otlp_http::OtlpHttpClient,
    settings::{self, Compression, Destination},
    tls_files::TlsFiles,
};

/// Exports spans to `destination`.
pub(super) fn spans(
    destination: &Destination,
    runtime: &Handle,
) -> Result<MonitoredExporter<SpanExporter>, String> {
    let builder = SpanExporter::builder();
    let mut monitored = MonitoredExporter::without_exporter("traces", destination, runtime);
    let exporter = match destination.protocol {
        settings::Protocol::Http => monitored
            .over_http(destination, builder.with_http())?
            .build(),
        settings::Protocol::Grpc => monitored
            .over_grpc(destination, builder.with_tonic())?
            .build(),
    };
    monitored.with(exporter)
}

/// Exports metrics to `destination`.
pub(super) fn metrics(
    destination: &Destination,
    temporality: Temporality,
    runtime: &Handle,
) -> Result<MonitoredExporter<MetricExporter>, String> {
    let builder = MetricExporter::builder().with_temporality(temporality);
    let mut monitored = MonitoredExporter::without_exporter("metrics", destination, runtime);
    let exporter = match destination.protocol {
        settings::Protocol::Http => monitored
            .over_http(destination, builder.with_http())?
            .build(),
        settings::Protocol::Grpc => monitored
            .over_grpc(destination, builder.with_tonic())?
            .build(),
    };
    monitored.with(exporter)
}

/// The parts of a monitored exporter without the exporter itself.
impl MonitoredExporter<()> {
    fn without_exporter(signal: &'static str, destination: &Destination, runtime: &Handle) -> Self {
        Self {
            exporter: (),
            runtime: runtime.clone(),
            timeout: destination.timeout,
            health: Arc::new(ExportHealth::new(signal, destination.shown())),
            last_error: LastExportError::default(),
            reconnect: None,
        }
    }

    fn over_http<B: WithExportConfig + WithHttpConfig>(
        &self,
        destination: &Destination,
        builder: B,
    ) -> Result<B, String> {
        let files = TlsFiles::read(destination)?;
        let builder = builder
            .with_endpoint(destination.url.as_str())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(destination.timeout)
            .with_http_client(OtlpHttpClient::new(
                destination,
                &files,
                self.last_error.clone(),
            )?);
        Ok(match destination.compression {
            Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
            Compression::None => builder,
        })
    }

    fn over_grpc<B: WithExportConfig + WithTonicConfig>(
        &mut self,
        destination: &Destination,
        builder: B,
    ) -> Result<B, String> {
        let files = TlsFiles::read(destination)?;
        let (channel, reconnect) = otlp_grpc::channel(destination, &files, &self.runtime)?;
        self.reconnect = Some(reconnect);
        let builder = builder
            .with_timeout(destination.timeout)
            .with_channel(channel)
            .with_interceptor(otlp_grpc::Headers::of(destination));
        Ok(match destination.compression {
            Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
            Compression::None => builder,
        })
    }

    fn with<E>(
        self,
        exporter: Result<E, ExporterBuildError>,
    ) -> Result<MonitoredExporter<E>, String> {
        Ok(MonitoredExporter {
            exporter: exporter.map_err(|error| error.to_string())?,
            runtime: self.runtime,
            timeout: self.timeout,
            health: self.health,
            last_error: self.last_error,
            reconnect: self.reconnect,
        })
    }
}
