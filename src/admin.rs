//! The admin API over HTTP.
//!
//! | path | response |
//! |---|---|
//! | `/` | HTML: links to the others |
//! | `/livez` | 200 while the process is healthy, 503 after a task panicked |
//! | `/readyz` | 200 from listening with known addresses until a drain has nothing left to end |
//! | `/drainz` | JSON: the phase, and what a drain still waits for |
//! | `/status` | JSON: identity, state and limits of the relay |
//! | `/peers` | JSON: the peers with most traffic |
//! | `/log-filter` | the log filter; PUT changes it; from this machine only |
//! | `/metrics` | metrics for Prometheus: OpenMetrics or text |
//!
//! A draining relay stays ready on purpose: an endpoint that is not ready loses its UDP flows at once,
//! and with them every circuit over QUIC. Load balancers and directories that must send no new peers
//! read the phase instead.

pub mod client;
mod connections;
pub(crate) mod index;
mod log_filter;
pub(crate) mod metrics;
mod peers;
pub(crate) mod server;
mod trace;

use std::{io, net::SocketAddr, sync::Arc, time::SystemTime};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use circuit_relay::Relay;
use lifecycle::{Lifecycle, Phase};
use opentelemetry::propagation::TextMapCompositePropagator;
use rate_limits::Rate;
use resource_manager::{ResourceUse, Resources, is_private, open_descriptors, used_bytes};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::server::{only_get, without_head};
use crate::{
    metrics::Metrics,
    node::Node,
    peer_stats::PeerStats,
    pseudonym::Pseudonyms,
    telemetry::{Telemetry, log::FilterHandle, prometheus::Prometheus},
};

/// The state of the admin API.
#[derive(Debug)]
pub struct Admin {
    relay: Arc<Relay>,
    pseudonyms: Pseudonyms,
    peer_stats: Option<Arc<PeerStats>>,
    resources: Resources,
    instance: String,
    lifecycle: Lifecycle,
    prometheus: Option<Prometheus>,
    log_filter: FilterHandle,
    metrics: Metrics,
    propagator: Arc<TextMapCompositePropagator>,
    started: Instant,
    started_at: SystemTime,
}

impl Admin {
    /// The admin API of `node` with this instance name.
    pub fn new(
        node: &Node,
        instance: String,
        lifecycle: Lifecycle,
        telemetry: &Telemetry,
    ) -> Arc<Self> {
        Arc::new(Self {
            relay: Arc::clone(node.relay()),
            pseudonyms: node.pseudonyms().clone(),
            peer_stats: node.peer_stats().cloned(),
            resources: node.resources().clone(),
            instance,
            lifecycle,
            prometheus: telemetry.prometheus(),
            log_filter: telemetry.log_filter(),
            metrics: telemetry.metrics().clone(),
            propagator: Arc::clone(telemetry.propagator()),
            started: Instant::now(),
            started_at: SystemTime::now(),
        })
    }

    /// Serves the API on `address` until shutdown. Requests may be part of traces.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn serve(self: &Arc<Self>, address: SocketAddr) -> io::Result<()> {
        let routes = trace::traced(self.routes(), Arc::clone(&self.propagator));
        server::serve(address, routes, &self.lifecycle)
    }

    fn routes(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/", only_get(get(index::relay)))
            .route("/livez", only_get(get(livez)))
            .route("/readyz", only_get(get(readyz)))
            .route("/drainz", only_get(get(drainz)))
            .route("/status", only_get(get(status)))
            .route("/peers", only_get(get(peers::peers)))
            .route("/log-filter", without_head(log_filter::route(), "GET, PUT"))
            .route("/metrics", only_get(get(metrics::metrics)))
            .with_state(Arc::clone(self))
    }

    fn is_ready(&self) -> bool {
        match self.lifecycle.phase() {
            Phase::Starting | Phase::Stopped => false,
            Phase::Ready => true,
            Phase::Draining { serves_until, .. } => {
                // Reserved peers may still get circuits.
                let statistics = self.relay.statistics();
                let is_needed = statistics.circuits > 0 || statistics.reservations > 0;
                Instant::now() < serves_until || is_needed
            }
        }
    }
}

/// A plain text response.
pub(crate) type PlainResponse = (StatusCode, &'static str);

async fn livez(State(admin): State<Arc<Admin>>) -> PlainResponse {
    if admin.lifecycle.has_failed() {
        (StatusCode::SERVICE_UNAVAILABLE, "a task panicked\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> PlainResponse {
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

/// A rate in the format of its variable.
fn rate_text(rate: Option<Rate>) -> Option<String> {
    rate.map(|rate| rate.to_string())
}

/// The usage of the resources that address prefixes share. The prefix with the highest usage is named by
/// a keyed hash.
fn resources(admin: &Admin) -> Value {
    let reports = admin
        .resources
        .report()
        .into_iter()
        .chain(admin.relay.report());
    let names = &admin.pseudonyms;
    let entry = |report: ResourceUse| {
        let largest = report.largest.map(|(prefix, used)| {
            json!({
                "prefix": names.network(prefix),
                "used": used,
                "is_private": is_private(prefix.network()),
            })
        });
        let value = json!({
            "used": report.used,
            "limit": report.limit,
            "is_scarce": report.is_scarce(),
            "largest_prefix": largest,
        });
        (report.resource.as_str().to_owned(), value)
    };
    Value::Object(reports.map(entry).collect())
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let statistics = admin.relay.statistics();
    let limits = admin.relay.limits();
    let plan = admin.resources.limits();
    let refused = admin.metrics.refusals();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "peer_id": admin.relay.peer_id().to_string(),
        "instance": admin.instance,
        "addresses": *admin.relay.addresses(),
        "phase": admin.lifecycle.phase().as_str(),
        "started_at": humantime::format_rfc3339_seconds(admin.started_at).to_string(),
        "uptime_seconds": admin.started.elapsed().as_secs(),
        "peers": statistics.peers,
        "connections": {
            "established": admin.metrics.established(),
            "pending": admin.metrics.pending(),
            "refused": refused.connections.get(),
        },
        "requests": {
            "refused": refused.requests.get(),
        },
        "reservations": {
            "active": statistics.reservations,
            "limit": limits.reservations,
            "limit_per_peer": limits.reservations_per_peer,
            "limit_per_ip": limits.reservations_per_ip,
            "rate_per_peer": rate_text(limits.reservation_rate.per_peer),
            "rate_per_ip": rate_text(limits.reservation_rate.per_ip),
            "ttl_seconds": limits.reservation_ttl.as_secs(),
        },
        "circuits": {
            "active": statistics.circuits,
            "limit": limits.circuits,
            "limit_per_source": limits.circuits_per_source,
            "limit_per_target": limits.circuits_per_target,
            "rate_per_peer": rate_text(limits.circuit_rate.per_peer),
            "rate_per_ip": rate_text(limits.circuit_rate.per_ip),
            "limit_seconds": limits.circuit.duration.map(|d| d.as_secs()),
            "limit_bytes": limits.circuit.bytes,
        },
        "bandwidth": {
            "limit": limits.bandwidth.relay.rate,
            "limit_per_peer": limits.bandwidth.peer.rate,
            "limit_per_circuit": limits.bandwidth.circuit.rate,
            "burst": limits.bandwidth.relay.burst(),
            "burst_per_peer": limits.bandwidth.peer.burst(),
            "burst_per_circuit": limits.bandwidth.circuit.burst(),
            "burst_left": admin.relay.bandwidth_limiter().and_then(|limiter| limiter.available()),
        },
        "memory": {
            "used": used_bytes(),
            "limit": plan.memory,
            "is_short": admin.resources.under_pressure(),
        },
        "file_descriptors": {
            "used": open_descriptors(),
            "limit": plan.descriptors,
            "limit_of_connections": plan.sockets,
        },
        "resources": resources(&admin),
        "totals": {
            "bytes_relayed": statistics.bytes,
            "circuits_finished": statistics.circuits_finished,
            "circuits_cut": statistics.circuits_cut,
        },
    }))
}
