//! The answerer's own HTTP endpoints.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process is sane, 503 after a task panicked |
//! | `/readyz` | 200 once a relay has been heard of, from then on |

use std::sync::Arc;

use axum::{Router, http::StatusCode, routing::get};
use tokio::sync::watch;

use super::{directory::Standing, zone::Zone};
use crate::{
    admin::{Answer, only_get},
    lifecycle::Lifecycle,
};

/// The endpoints. With a stale zone the answerer is ready: that is what the last good set is for.
pub fn routes(zone: watch::Receiver<Arc<Zone>>, lifecycle: Lifecycle) -> Router {
    let livez = async move || -> Answer {
        if lifecycle.is_faulty() {
            (StatusCode::SERVICE_UNAVAILABLE, "a task panicked\n")
        } else {
            (StatusCode::OK, "ok\n")
        }
    };
    let readyz = async move || -> Answer {
        if zone.borrow().standing() == Standing::Unknown {
            (StatusCode::SERVICE_UNAVAILABLE, "no relay has answered\n")
        } else {
            (StatusCode::OK, "ok\n")
        }
    };
    Router::new()
        .route("/livez", only_get(get(livez)))
        .route("/readyz", only_get(get(readyz)))
}
