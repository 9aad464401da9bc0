//! The server's own HTTP endpoints.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process is sane, 503 after a task panicked |
//! | `/readyz` | 200 once the relays have been heard of, from then on |
//! | `/metrics` | what the server counts, as Prometheus reads it |

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use tokio::sync::watch;

use super::{directory::ZoneState, zone::Zone};
use crate::{
    admin::{self, PlainResponse, server::only_get},
    lifecycle::Lifecycle,
    telemetry::prometheus::Prometheus,
};

/// The endpoints. With a stale zone the server is ready: that is what the last good set is for.
pub fn routes(
    zone: watch::Receiver<Arc<Zone>>,
    lifecycle: Lifecycle,
    prometheus: Option<Prometheus>,
) -> Router {
    let livez = async move || -> PlainResponse {
        if lifecycle.is_faulty() {
            (StatusCode::SERVICE_UNAVAILABLE, "a task panicked\n")
        } else {
            (StatusCode::OK, "ok\n")
        }
    };
    let readyz = async move || -> PlainResponse {
        if zone.borrow().state() == ZoneState::Unknown {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the relays have not answered\n",
            )
        } else {
            (StatusCode::OK, "ok\n")
        }
    };
    let metrics = async move |headers: HeaderMap| {
        admin::metrics::respond(prometheus.as_ref(), &headers).await
    };
    Router::new()
        .route("/livez", only_get(get(livez)))
        .route("/readyz", only_get(get(readyz)))
        .route("/metrics", only_get(get(metrics)))
}
