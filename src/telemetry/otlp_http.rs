//! OTLP over HTTP.

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use prost::Message;
use reqwest::{
    Client, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT},
    redirect,
};

use super::{
    export_health::ExportError,
    exporter::LastExportError,
    settings::Destination,
    tls_files::{self, TlsFiles},
};
use crate::{error_chain::chain, pem};

/// Maximum length of a response; those of collectors have some bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A client that sends only the configured headers, and records why requests fail.
#[derive(Debug)]
pub(super) struct OtlpHttpClient {
    client: Client,
    headers: HeaderMap,
    last_error: LastExportError,
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
    /// A client for `destination` that records errors in `last_error`.
    pub(super) fn new(
        destination: &Destination,
        files: &TlsFiles,
        last_error: LastExportError,
    ) -> Result<Self, String> {
        let mut client = Client::builder()
            // Redirects could leak headers to another host.
            .redirect(redirect::Policy::none());
        let is_plain = destination.url.scheme() == "http";
        if let Some(pem) = &files.certificate {
            let certificates = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|error| pem::invalid(tls_files::CERTIFICATE, &error))?;
            client = client.tls_certs_only(certificates);
        } else if is_plain {
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
            client: client.build().map_err(|error| error_message(&error))?,
            headers: destination.headers.clone(),
            last_error,
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ExportError> {
        let mut headers = self.headers.clone();
        // The exporter adds headers from the environment, which are part of the settings already.
        for name in [CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT] {
            if let Some(value) = request.headers().get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let answer = self
            .client
            .post(request.uri().to_string())
            .headers(headers)
            .body(request.into_body());
        let mut answer = answer.send().await.map_err(|error| no_answer(&error))?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| no_answer(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(not_otlp("the response is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        self.last_error
            .set(check_response(answer.status(), answer.headers(), &body));
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = answer.status();
        // The exporter uses it as the retry delay.
        if let Some(value) = answer.headers().get(RETRY_AFTER) {
            response.headers_mut().insert(RETRY_AFTER, value.clone());
        }
        Ok(response)
    }
}

#[async_trait]
impl HttpClient for OtlpHttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.last_error.set(None);
        self.send(request).await.map_err(|last_error| {
            let what = last_error.message.clone();
            self.last_error.set(Some(last_error));
            what.into()
        })
    }
}

/// Checks a response. The error omits its body, which may contain parts of the request.
fn check_response(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<ExportError> {
    if !status.is_success() {
        let check = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "OTEL_EXPORTER_OTLP_HEADERS",
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                "the collector and its backend"
            }
            _ => "OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL",
        };
        return Some(ExportError::new(
            format!("the collector responded with {status}"),
            check,
        ));
    }
    // Some collectors respond in JSON to requests in protobuf.
    let is_json = headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if is_json {
        return None;
    }
    match ExportResponse::decode(body) {
        Err(_) => Some(not_otlp("the response is not OTLP")),
        Ok(response) => {
            let rejected = response.partial_success?.rejected;
            let refused = u64::try_from(rejected)
                .ok()
                .filter(|refused| *refused > 0)?;
            Some(ExportError {
                message: format!("the collector rejected {refused} items of an export"),
                check: "the log of the collector",
                rejected: Some(refused),
            })
        }
    }
}

fn not_otlp(what: &str) -> ExportError {
    ExportError::new(
        what,
        "OTEL_EXPORTER_OTLP_ENDPOINT: the endpoint may not be a collector",
    )
}

fn no_answer(error: &reqwest::Error) -> ExportError {
    let what = error_message(error);
    let check = if what.contains("ertificate") || what.contains("alert") {
        "OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
    } else {
        "OTEL_EXPORTER_OTLP_ENDPOINT, and whether the collector runs"
    };
    ExportError::new(what, check)
}

/// The sources of an error, without its own message, which contains the URL.
fn error_message(error: &reqwest::Error) -> String {
    std::error::Error::source(error).map_or_else(|| "the request failed".to_owned(), chain)
}
