//! OTLP over HTTP.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use prost::Message;
use reqwest::{
    Client, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, USER_AGENT},
    redirect,
};

use super::{
    export_health::{ExportError, ExportHealth},
    settings::Destination,
    tls_files::{self, TlsFiles},
};
use crate::{
    error_chain::{causes, chain},
    pem,
};

/// A client that sends only the configured headers, and records why requests fail.
#[derive(Debug)]
pub(super) struct OtlpHttpClient {
    client: Client,
    headers: HeaderMap,
    health: Arc<ExportHealth>,
}

/// The response to spans and to metrics, which have the same format.
#[derive(PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(PartialEq, Message)]
struct PartialSuccess {
    /// Number of spans or of data points.
    #[prost(int64, tag = "1")]
    rejected: i64,
}

impl OtlpHttpClient {
    /// A client for `destination` that records errors in `health`.
    pub(super) fn new(
        destination: &Destination,
        health: &Arc<ExportHealth>,
    ) -> Result<Self, String> {
        let files = TlsFiles::read(destination)?;
        // Redirects could leak headers to another host.
        let mut client = Client::builder().redirect(redirect::Policy::none());
        if let Some(pem) = &files.certificate {
            let certificates = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|error| pem::invalid(tls_files::CERTIFICATE, &error))?;
            client = client.tls_certs_only(certificates);
        } else if destination.url.scheme() == "http" {
            // The system store may be missing in a minimal image.
            client = client.tls_certs_only([]);
        }
        if let Some((certificate, key)) = &files.identity {
            let pem = [certificate.as_slice(), b"\n", key].concat();
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|error| pem::invalid(tls_files::CLIENT, &error))?;
            client = client.identity(identity);
        }
        Ok(Self {
            client: client.build().map_err(|error| causes(&error))?,
            headers: destination.headers.clone(),
            health: Arc::clone(health),
        })
    }
}

#[async_trait]
impl HttpClient for OtlpHttpClient {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut headers = self.headers.clone();
        // The exporter adds headers from the environment, which are part of the settings already.
        for name in [CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT] {
            if let Some(value) = request.headers_mut().remove(&name) {
                headers.insert(name, value);
            }
        }
        *request.headers_mut() = headers;
        let response = self.client.send_bytes(request).await;
        self.health.set_request_error(match &response {
            Ok(response) => check_response(response),
            Err(error) => Some(no_response(error.as_ref())),
        });
        response
    }
}

/// Checks a response. The error omits its body, which may contain parts of the request.
fn check_response(response: &Response<Bytes>) -> Option<ExportError> {
    let status = response.status();
    if !status.is_success() {
        let check = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "OTEL_EXPORTER_OTLP_HEADERS",
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                "the collector and its backend"
            }
            _ => "OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL",
        };
        let message = format!("the collector responded with {status}");
        return Some(ExportError::new(message, check));
    }
    // Some collectors respond in JSON to requests in protobuf.
    let content_type = response.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json")) {
        return None;
    }
    let Ok(export) = ExportResponse::decode(response.body().clone()) else {
        return Some(ExportError::new(
            "the response is not OTLP",
            "OTEL_EXPORTER_OTLP_ENDPOINT: the endpoint may not be a collector",
        ));
    };
    let rejected = u64::try_from(export.partial_success?.rejected).ok()?;
    (rejected > 0).then(|| ExportError {
        rejected: Some(rejected),
        ..ExportError::new(
            format!("the collector rejected {rejected} items of an export"),
            "the log of the collector",
        )
    })
}

fn no_response(error: &(dyn Error + Send + Sync + 'static)) -> ExportError {
    ExportError::of_library(&match error.downcast_ref::<reqwest::Error>() {
        Some(error) => causes(error),
        None => chain(error),
    })
}
