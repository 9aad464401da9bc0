//! `/metrics`: the metrics for Prometheus.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use tracing::error;

use super::Admin;
use crate::telemetry::prometheus::{Format, Prometheus};

pub(super) async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    respond(admin.prometheus.as_ref(), &headers).await
}

/// The metrics in the format that the client prefers.
pub(crate) async fn respond(prometheus: Option<&Prometheus>, headers: &HeaderMap) -> Response {
    let Some(prometheus) = prometheus else {
        let why = "OTEL_SDK_DISABLED disables metrics\n";
        return (StatusCode::NOT_FOUND, why).into_response();
    };
    let accept: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = Format::accepted(&accept.join(","));
    match prometheus.read(format).await {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            error!(%error, "cannot render metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
