//! The DNS server's HTTP endpoints.
//!
//! | path | response |
//! |---|---|
//! | `/` | HTML: links to the others |
//! | `/livez` | 200 while the process is healthy, 503 after a task panicked |
//! | `/readyz` | 200 once the state of the relays is known |
//! | `/metrics` | the server's metrics for Prometheus |

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use fleet_dns::{directory::ZoneState, zone::Zone};
use lifecycle::Lifecycle;
use tokio::sync::watch;

use crate::{
    admin::{self, PlainResponse, server::only_get},
    telemetry::prometheus::Prometheus,
};

/// The endpoints. With a stale zone the server is ready, because it serves the last good set.
pub fn routes(
    zone: watch::Receiver<Arc<Zone>>,
    lifecycle: Lifecycle,
    prometheus: Option<Prometheus>,
) -> Router {
    let livez = async move || -> PlainResponse {
        if lifecycle.has_failed() {
            (StatusCode::SERVICE_UNAVAILABLE, "a task panicked\n")
        } else {
            (StatusCode::OK, "ok\n")
        }
    };
    let readyz = async move || -> PlainResponse {
        if zone.borrow().state() == ZoneState::Unknown {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the relays have not responded\n",
            )
        } else {
            (StatusCode::OK, "ok\n")
        }
    };
    let metrics = async move |headers: HeaderMap| {
        admin::metrics::respond(prometheus.as_ref(), &headers).await
    };
    Router::new()
        .route("/", only_get(get(admin::index::dns)))
        .route("/livez", only_get(get(livez)))
        .route("/readyz", only_get(get(readyz)))
        .route("/metrics", only_get(get(metrics)))
}
