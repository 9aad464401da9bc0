//! The operator's HTTP endpoints.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process is sane, 503 after a task panicked |
//! | `/readyz` | 200 from "listening, addresses known" until a drain has nothing left to end |
//! | `/drainz` | JSON: the phase, and what a drain still waits for |
//! | `/status` | JSON: who the relay is, what it does, and its limits |
//! | `/peers` | JSON: the peers that move most |
//! | `/metrics` | every instrument, as Prometheus reads it: OpenMetrics or text |
//!
//! Readiness is held during a drain on purpose: an endpoint that is not ready loses its UDP
//! flows at once, and with them every circuit over QUIC. Who must not send new peers any more
//! reads the phase instead.

pub mod client;
pub(crate) mod metrics;
mod peers;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    routing::{MethodRouter, get},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::{debug, info};

use crate::{
    lifecycle::{Lifecycle, Phase},
    relay::Relay,
    telemetry::prometheus::Prometheus,
};

/// Connections that are served at once; more wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's headers may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a request is buffered.
const MAX_BUFFER_BYTES: usize = 16 * 1024;

/// What the endpoints tell of.
#[derive(Debug)]
pub struct Admin {
    relay: Arc<Relay>,
    instance: String,
    lifecycle: Lifecycle,
    prometheus: Option<Prometheus>,
    started: Instant,
}

impl Admin {
    /// Tells of `relay`, which has this name within its fleet, from now on, and of its metrics if
    /// they can be read.
    pub fn new(
        relay: Arc<Relay>,
        instance: String,
        lifecycle: Lifecycle,
        prometheus: Option<Prometheus>,
    ) -> Arc<Self> {
        Arc::new(Self {
            relay,
            instance,
            lifecycle,
            prometheus,
            started: Instant::now(),
        })
    }

    /// Serves on `address` until the process ends.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve(self: &Arc<Self>, address: SocketAddr) -> io::Result<()> {
        serve(address, self.routes(), &self.lifecycle).await
    }

    fn routes(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/livez", only_get(get(livez)))
            .route("/readyz", only_get(get(readyz)))
            .route("/drainz", only_get(get(drainz)))
            .route("/status", only_get(get(status)))
            .route("/peers", only_get(get(peers::peers)))
            .route("/metrics", only_get(get(metrics::metrics)))
            .with_state(Arc::clone(self))
    }

    fn is_ready(&self) -> bool {
        match self.lifecycle.phase() {
            Phase::Starting | Phase::Stopped => false,
            Phase::Ready => true,
            Phase::Draining { serves_until, .. } => {
                // Whoever has a reservation may still get circuits.
                let statistics = self.relay.statistics();
                let is_needed = statistics.circuits > 0 || statistics.reservations > 0;
                Instant::now() < serves_until || is_needed
            }
        }
    }
}

/// Serves `routes` on `address` until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn serve(
    address: SocketAddr,
    routes: Router,
    lifecycle: &Lifecycle,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "admin endpoints");
    lifecycle.spawn_until_end("admin", accept(listener, routes, lifecycle.clone()));
    Ok(())
}

async fn accept(listener: TcpListener, routes: Router, lifecycle: Lifecycle) {
    let routes = TowerToHyperService::new(routes);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_BUFFER_BYTES);
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, most likely: some will be closed.
                debug!(%error, "cannot accept a connection to the admin endpoints");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = http.serve_connection(TokioIo::new(stream), routes.clone());
        lifecycle.spawn_until_end("admin connection", async move {
            if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, connection).await {
                debug!(%error, "a connection to the admin endpoints failed");
            }
            drop(slot);
        });
    }
}

/// HEAD would be served like GET otherwise.
pub(crate) fn only_get<S>(route: MethodRouter<S>) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    route.head(async || (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")]))
}

/// An answer in words.
pub(crate) type Answer = (StatusCode, &'static str);

async fn livez(State(admin): State<Arc<Admin>>) -> Answer {
    if admin.lifecycle.is_faulty() {
        (StatusCode::SERVICE_UNAVAILABLE, "a task panicked\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Answer {
    if admin.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn drainz(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let phase = admin.lifecycle.phase();
    let statistics = admin.relay.statistics();
    let seconds_left = match phase {
        Phase::Draining { deadline, .. } => {
            Some(deadline.saturating_duration_since(Instant::now()).as_secs())
        }
        _ => None,
    };
    Json(json!({
        "phase": phase.as_str(),
        "circuits": statistics.circuits,
        "reservations": statistics.reservations,
        "seconds_left": seconds_left,
    }))
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let statistics = admin.relay.statistics();
    let limits = admin.relay.limits();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "peer_id": admin.relay.peer_id().to_string(),
        "instance": admin.instance,
        "addresses": *admin.relay.addresses(),
        "phase": admin.lifecycle.phase().as_str(),
        "uptime_seconds": admin.started.elapsed().as_secs(),
        "peers": statistics.peers,
        "reservations": {
            "active": statistics.reservations,
            "limit": limits.reservations,
            "limit_per_peer": limits.reservations_per_peer,
            "limit_per_ip": limits.reservations_per_ip,
            "ttl_seconds": limits.reservation_ttl.as_secs(),
        },
        "circuits": {
            "active": statistics.circuits,
            "limit": limits.circuits,
            "limit_per_peer": limits.circuits_per_peer,
            "limit_seconds": limits.circuit.duration.map(|d| d.as_secs()),
            "limit_bytes": limits.circuit.bytes,
        },
        "totals": {
            "bytes_relayed": statistics.bytes,
            "circuits_finished": statistics.circuits_finished,
            "circuits_cut": statistics.circuits_cut,
        },
    }))
}
