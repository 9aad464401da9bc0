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
    Compression::Gzip,
    MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::{
        metadata::MetadataMap,
        transport::{Certificate, ClientTlsConfig, Identity},
    },
};
use opentelemetry_sdk::metrics::Temporality;
use tokio::runtime::Handle;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use super::{
    export_health::ExportHealth,
    otlp_http::OtlpHttpClient,
    settings::{self, Compression, Destination},
    tls_files::TlsFiles,
};
use crate::{error_chain::chain, pem};

/// An exporter of spans to `destination`.
pub(super) fn spans(
    destination: &Destination,
    runtime: &Handle,
    health: &Arc<ExportHealth>,
) -> Result<SpanExporter, String> {
    let builder = SpanExporter::builder();
    let exporter = match destination.protocol {
        settings::Protocol::Http => over_http(builder.with_http(), destination, health)?.build(),
        settings::Protocol::Grpc => over_grpc(builder.with_tonic(), destination, runtime)?.build(),
    };
    exporter.map_err(|error| error.to_string())
}

/// An exporter of metrics to `destination`.
pub(super) fn metrics(
    destination: &Destination,
    temporality: Temporality,
    runtime: &Handle,
    health: &Arc<ExportHealth>,
) -> Result<MetricExporter, String> {
    let builder = MetricExporter::builder().with_temporality(temporality);
    let exporter = match destination.protocol {
        settings::Protocol::Http => over_http(builder.with_http(), destination, health)?.build(),
        settings::Protocol::Grpc => over_grpc(builder.with_tonic(), destination, runtime)?.build(),
    };
    exporter.map_err(|error| error.to_string())
}

fn over_http<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    destination: &Destination,
    health: &Arc<ExportHealth>,
) -> Result<B, String> {
    let builder = builder
        .with_endpoint(destination.url.as_str())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(destination.timeout)
        .with_http_client(OtlpHttpClient::new(destination, health)?);
    Ok(match destination.compression {
        Compression::Gzip => builder.with_compression(Gzip),
        Compression::None => builder,
    })
}

fn over_grpc<B: WithExportConfig + WithTonicConfig>(
    builder: B,
    destination: &Destination,
    runtime: &Handle,
) -> Result<B, String> {
    let headers = MetadataMap::from_headers(destination.headers.clone());
    let builder = builder
        .with_timeout(destination.timeout)
        .with_channel(channel(destination, runtime)?)
        // The exporter adds the headers of the environment, which are part of the settings already.
        .with_interceptor(move |mut request: Request<()>| {
            request.metadata_mut().clone_from(&headers);
            Ok(request)
        });
    Ok(match destination.compression {
        Compression::Gzip => builder.with_compression(Gzip),
        Compression::None => builder,
    })
}

/// A channel that connects at the first request, and reconnects when the connection is lost.
fn channel(destination: &Destination, runtime: &Handle) -> Result<Channel, String> {
    let timeout = destination.timeout;
    let files = TlsFiles::read(destination)?;
    let mut endpoint = Endpoint::from_shared(destination.url.to_string())
        .map_err(|error| chain(&error))?
        .connect_timeout(timeout)
        // A connection whose other end disappeared looks alive for many minutes. A ping that is sent
        // while a request waits, and expires after the request, replaces the connection.
        .http2_keep_alive_interval(timeout / 2)
        .keep_alive_timeout(timeout);
    if destination.url.scheme() == "https" {
        let mut tls = ClientTlsConfig::new().timeout(timeout);
        tls = match &files.certificate {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &files.identity {
            tls = tls.identity(Identity::from_pem(certificate, key.as_slice()));
        }
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| pem::invalid("the certificates", &chain(&error)))?;
    }
    // The channel spawns its tasks on the current runtime.
    let _current = runtime.enter();
    Ok(endpoint.connect_lazy())
}
