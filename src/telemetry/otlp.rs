//! The exporters that push to a collector.
//!
//! They read variables of the environment by themselves when they are told nothing. So they are
//! told everything that they can be told: what is in force is what [`Settings`] says, and not a
//! second reading of the same variables. What is left is the compression, where "none" cannot be
//! told: that is only left out where the variables say nothing else.
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
    exporter::{LastCause, Watched},
    grpc::{self, Reconnect},
    http::Http,
    settings::{self, Compression, Destination},
    tls::Files,
    trouble::Trouble,
};

/// Exports spans to `destination`.
pub(super) fn spans(
    destination: &Destination,
    runtime: &Handle,
) -> Result<Watched<SpanExporter>, String> {
    let builder = SpanExporter::builder();
    match destination.protocol {
        settings::Protocol::Http => {
            let (builder, cause) = with_http(builder.with_http(), destination)?;
            watched("traces", builder.build(), destination, runtime, cause, None)
        }
        settings::Protocol::Grpc => {
            let (builder, reconnect) = with_grpc(builder.with_tonic(), destination, runtime)?;
            let (cause, reconnect) = (LastCause::default(), Some(reconnect));
            watched(
                "traces",
                builder.build(),
                destination,
                runtime,
                cause,
                reconnect,
            )
        }
    }
}

/// Exports metrics to `destination`.
pub(super) fn metrics(
    destination: &Destination,
    temporality: Temporality,
    runtime: &Handle,
) -> Result<Watched<MetricExporter>, String> {
    let builder = MetricExporter::builder().with_temporality(temporality);
    match destination.protocol {
        settings::Protocol::Http => {
            let (builder, cause) = with_http(builder.with_http(), destination)?;
            watched(
                "metrics",
                builder.build(),
                destination,
                runtime,
                cause,
                None,
            )
        }
        settings::Protocol::Grpc => {
            let (builder, reconnect) = with_grpc(builder.with_tonic(), destination, runtime)?;
            let (cause, reconnect) = (LastCause::default(), Some(reconnect));
            watched(
                "metrics",
                builder.build(),
                destination,
                runtime,
                cause,
                reconnect,
            )
        }
    }
}

fn watched<E>(
    signal: &'static str,
    exporter: Result<E, ExporterBuildError>,
    destination: &Destination,
    runtime: &Handle,
    cause: LastCause,
    reconnect: Option<Reconnect>,
) -> Result<Watched<E>, String> {
    Ok(Watched {
        exporter: exporter.map_err(|error| error.to_string())?,
        runtime: runtime.clone(),
        timeout: destination.timeout,
        trouble: Arc::new(Trouble::new(signal, destination.shown())),
        cause,
        reconnect,
    })
}

fn with_http<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    destination: &Destination,
) -> Result<(B, LastCause), String> {
    let files = Files::read(destination)?;
    let cause = LastCause::default();
    let builder = builder
        .with_endpoint(destination.url.as_str())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(destination.timeout)
        .with_http_client(Http::new(destination, &files, cause.clone())?);
    let builder = match destination.compression {
        Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        Compression::None => builder,
    };
    Ok((builder, cause))
}

fn with_grpc<B: WithExportConfig + WithTonicConfig>(
    builder: B,
    destination: &Destination,
    runtime: &Handle,
) -> Result<(B, Reconnect), String> {
    let files = Files::read(destination)?;
    let (channel, reconnect) = grpc::channel(destination, &files, runtime)?;
    let builder = builder
        .with_timeout(destination.timeout)
        .with_channel(channel)
        .with_interceptor(grpc::Headers::of(destination));
    let builder = match destination.compression {
        Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        Compression::None => builder,
    };
    Ok((builder, reconnect))
}
