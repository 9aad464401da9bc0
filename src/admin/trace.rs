//! Spans of requests to the admin API that are part of a trace.

use std::sync::Arc;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::Response,
};
use opentelemetry::{
    Context,
    propagation::{TextMapCompositePropagator, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_http::HeaderExtractor;
use tracing::{Instrument, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::telemetry::{SPANS, integer};

/// Adds a span to each request of `routes` that belongs to a sampled trace. Other requests have none:
/// health checks would dominate all spans.
pub(super) fn traced(routes: Router, propagator: Arc<TextMapCompositePropagator>) -> Router {
    routes.route_layer(middleware::from_fn_with_state(propagator, trace))
}

async fn trace(
    State(propagator): State<Arc<TextMapCompositePropagator>>,
    route: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let headers = HeaderExtractor(request.headers());
    let cause = propagator.extract_with_context(&Context::new(), &headers);
    if !cause.span().span_context().is_sampled() {
        return next.run(request).await;
    }
    let span = info_span!(
        target: SPANS,
        parent: None,
        "http.request",
        otel.name = format!("{} {}", request.method(), route.as_str()),
        otel.kind = "server",
        http.request.method = request.method().as_str(),
        http.route = route.as_str(),
        http.response.status_code = Empty,
        otel.status_code = Empty,
    );
    // It fails without a tracing layer.
    let _ = span.set_parent(cause);
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", integer(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response
}
