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
    MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::{
        metadata::MetadataMap,
        transport::{Certificate, ClientTlsConfig, Identity},
    },
};
use opentelemetry_sdk::metrics::Temporality;
use tokio::runtime::Handle;
use tonic::{
    Request, Status,
    service::Interceptor,
    transport::{Channel, Endpoint},
};

use super::{
    exporter::{LastCause, Watched},
    http::Http,
    settings::{self, Compression, Destination},
    tls::{self, Files},
    trouble::Trouble,
};

/// Exports spans to `destination`.
pub(super) fn spans(
    destination: &Destination,
    runtime: &Handle,
) -> Result<Watched<SpanExporter>, String> {
    let cause = LastCause::default();
    let builder = SpanExporter::builder();
    let exporter = match destination.protocol {
        settings::Protocol::Http => http(builder.with_http(), destination, cause.clone())?.build(),
        settings::Protocol::Grpc => grpc(builder.with_tonic(), destination, runtime)?.build(),
    };
    let exporter = exporter.map_err(|error| error.to_string())?;
    Ok(watched(exporter, "traces", destination, runtime, cause))
}

/// Exports metrics to `destination`.
pub(super) fn metrics(
    destination: &Destination,
    temporality: Temporality,
    runtime: &Handle,
) -> Result<Watched<MetricExporter>, String> {
    let cause = LastCause::default();
    let builder = MetricExporter::builder().with_temporality(temporality);
    let exporter = match destination.protocol {
        settings::Protocol::Http => http(builder.with_http(), destination, cause.clone())?.build(),
        settings::Protocol::Grpc => grpc(builder.with_tonic(), destination, runtime)?.build(),
    };
    let exporter = exporter.map_err(|error| error.to_string())?;
    Ok(watched(exporter, "metrics", destination, runtime, cause))
}

fn watched<E>(
    exporter: E,
    signal: &'static str,
    destination: &Destination,
    runtime: &Handle,
    cause: LastCause,
) -> Watched<E> {
    Watched {
        exporter,
        runtime: runtime.clone(),
        timeout: destination.timeout,
        trouble: Arc::new(Trouble::new(signal, destination.shown())),
        cause,
    }
}

fn http<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    destination: &Destination,
    cause: LastCause,
) -> Result<B, String> {
    let files = Files::read(destination)?;
    let client = Http::new(destination, &files, cause)?;
    let builder = builder
        .with_endpoint(destination.url.as_str())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(destination.timeout)
        .with_http_client(client);
    Ok(match destination.compression {
        Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        Compression::None => builder,
    })
}

fn grpc<B: WithExportConfig + WithTonicConfig>(
    builder: B,
    destination: &Destination,
    runtime: &Handle,
) -> Result<B, String> {
    let files = Files::read(destination)?;
    let builder = builder
        .with_timeout(destination.timeout)
        .with_channel(channel(destination, &files, runtime)?)
        .with_interceptor(Headers(MetadataMap::from_headers(
            destination.headers.clone(),
        )));
    Ok(match destination.compression {
        Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        Compression::None => builder,
    })
}

/// Connects when it is used first, and again whenever the connection is lost.
fn channel(destination: &Destination, files: &Files, runtime: &Handle) -> Result<Channel, String> {
    let mut url = destination.url.clone();
    // They would become part of the name of the host; an HTTP URL has both.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut endpoint = Endpoint::from_shared(url.to_string())
        .map_err(|error| words(&error))?
        .connect_timeout(destination.timeout);
    if url.scheme() == "https" {
        let mut tls = ClientTlsConfig::new().timeout(destination.timeout);
        tls = match &files.certificate {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &files.identity {
            tls = tls.identity(Identity::from_pem(certificate, key.as_slice()));
        }
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| tls::unusable("the certificates", &words(&error)))?;
    }
    // The tasks of the channel belong to the runtime that is current.
    let _current = runtime.enter();
    Ok(endpoint.connect_lazy())
}

/// Sends just these headers: the exporter adds those from the environment a second time.
#[derive(Clone)]
struct Headers(MetadataMap);

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().clone_from(&self.0);
        Ok(request)
    }
}

/// An error with all that caused it.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        words = format!("{words}: {source}");
        error = source;
    }
    words
}
