//! Reports of the relay's requests, reservations and circuits as log lines, metrics, spans and
//! traffic counters of peers.
//!
//! Peers appear as [`Pseudonyms`]; IP addresses do not appear.

mod spans;

use std::{sync::Arc, time::Duration};

use circuit_relay::{
    CircuitObserver, ClosedCircuit, Denied, FinishedStop, Leg, Observer, RequestKind,
    RequestObserver, Requester, StopObserver, StopOutcome, ledger::ReservationEndCause,
    wire::Request,
};
use libp2p::{PeerId, identity::SigningError};
use rate_limits::LogThrottle;
use tracing::{Span, debug, error, info};

use crate::{
    metrics::Metrics,
    peer_stats::{CircuitGuard, PeerStats},
    pseudonym::Pseudonyms,
};

/// Renewals at shorter intervals are logged at debug level: they are never refused, so a flood of
/// them must not flood the log.
const MIN_LOGGED_RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// The observer of the relay; see the module documentation. Clones share their state.
#[derive(Clone, Debug)]
pub struct RelayObserver(Arc<Sinks>);

/// The sinks of reports, apart from the log and the spans, which are global.
#[derive(Debug)]
struct Sinks {
    pseudonyms: Pseudonyms,
    metrics: Metrics,
    peer_stats: Option<Arc<PeerStats>>,
    log_throttle: LogThrottle,
}

impl RelayObserver {
    /// Reports to these sinks. Without `peer_stats` there are no counters of peers. `log_throttle`
    /// limits the log lines about denied requests.
    pub fn new(
        pseudonyms: Pseudonyms,
        metrics: Metrics,
        peer_stats: Option<Arc<PeerStats>>,
        log_throttle: LogThrottle,
    ) -> Self {
        Self(Arc::new(Sinks {
            pseudonyms,
            metrics,
            peer_stats,
            log_throttle,
        }))
    }
}

impl Sinks {
    fn reserved(&self, peer: PeerId, outcome: &'static str) {
        let request = RequestKind::Reserve.as_str();
        self.metrics.request(request, outcome, "none");
        if let Some(peers) = &self.peer_stats {
            peers.reserved(peer);
        }
    }
}

impl Observer for RelayObserver {
    fn request(&self, from: &Requester, request: &Request) -> Box<dyn RequestObserver> {
        Box::new(RequestReport {
            sinks: Arc::clone(&self.0),
            span: spans::request(&self.0.pseudonyms, from, request),
        })
    }

    fn request_denied(&self, peer: PeerId, request: RequestKind, denied: &Denied) {
        let sinks = &self.0;
        let Denied {
            reason: deny_reason,
            rule,
        } = denied;
        let request = request.as_str();
        let (status, reason) = deny_reason.status_and_reason();
        if sinks.log_throttle.should_log("request", reason) {
            info!(
                peer = %sinks.pseudonyms.name(&peer),
                request,
                status = status.name(),
                reason,
                rule,
                "request denied: {deny_reason}"
            );
        }
        sinks.metrics.request(request, "denied", reason);
        if let Some(peers) = &sinks.peer_stats {
            peers.denied(peer);
        }
    }

    fn reservation_accepted(&self, peer: PeerId, renewed_after: Option<Duration>, ttl: Duration) {
        let (name, ttl_seconds) = (self.0.pseudonyms.name(&peer), ttl.as_secs());
        let outcome = if let Some(after) = renewed_after {
            if after < MIN_LOGGED_RENEWAL_INTERVAL {
                debug!(peer = %name, ttl_seconds, "reservation renewed again");
            } else {
                info!(peer = %name, ttl_seconds, "reservation renewed");
            }
            "renewed"
        } else {
            info!(peer = %name, ttl_seconds, "reservation accepted");
            "accepted"
        };
        self.0.reserved(peer, outcome);
    }

    /// Metrics count it as a renewal; it is logged at debug level only, so that a flood of renewals
    /// does not flood the log.
    fn reservation_repeated(&self, peer: PeerId) {
        debug!(peer = %self.0.pseudonyms.name(&peer), "reservation renewed again");
        self.0.reserved(peer, "renewed");
    }

    fn reservation_ended(&self, peer: PeerId, cause: ReservationEndCause, lasted: Duration) {
        let how = cause.end().as_str();
        info!(
            peer = %self.0.pseudonyms.name(&peer),
            duration_seconds = lasted.as_secs_f64(),
            cause = cause.as_str(),
            "reservation {how}"
        );
        self.0.metrics.reservation_ended(how, lasted);
    }

    fn stop_attempted(&self, outcome: StopOutcome, took: Duration) {
        self.0.metrics.stop(outcome.as_str(), took);
    }

    fn signing_failed(&self, error: &SigningError) {
        error!(%error, "the relay's key cannot sign a reservation voucher");
    }
}

/// The span of a request.
struct RequestReport {
    sinks: Arc<Sinks>,
    span: Span,
}

impl RequestObserver for RequestReport {
    fn in_scope(&self, poll: &mut dyn FnMut()) {
        self.span.in_scope(poll);
    }

    fn stop(&self) -> Box<dyn StopObserver> {
        Box::new(StopReport(spans::stop(&self.span)))
    }

    fn finished(&self, result: Result<(), &Denied>) {
        spans::record_outcome(&self.span, result);
    }

    fn circuit_accepted(self: Box<Self>, source: Leg, target: Leg) -> Box<dyn CircuitObserver> {
        let Self {
            sinks,
            span: request,
        } = *self;
        info!(
            source_peer = %sinks.pseudonyms.name(&source.peer),
            target_peer = %sinks.pseudonyms.name(&target.peer),
            source_transport = source.transport.as_str(),
            target_transport = target.transport.as_str(),
            "circuit accepted"
        );
        let connect = RequestKind::Connect.as_str();
        sinks.metrics.request(connect, "accepted", "none");
        let peer_stats = sinks.peer_stats.as_ref();
        Box::new(CircuitReport {
            span: spans::circuit(&sinks.pseudonyms, &request, source, target),
            peer_stats: peer_stats.map(|stats| stats.circuit(source.peer, target.peer)),
            sinks,
        })
    }
}

/// The span of STOP.
struct StopReport(Span);

impl StopObserver for StopReport {
    fn finished(&self, stop: &FinishedStop) {
        spans::record_stop(&self.0, stop);
    }
}

/// The span of a circuit, and the traffic counters of its peers.
struct CircuitReport {
    sinks: Arc<Sinks>,
    span: Span,
    peer_stats: Option<CircuitGuard>,
}

impl CircuitObserver for CircuitReport {
    fn transferred(&self, to_target: u64, to_source: u64) {
        if let Some(stats) = &self.peer_stats {
            stats.add(to_target, to_source);
        }
    }

    fn closed(self: Box<Self>, closed: &ClosedCircuit) {
        let Self {
            sinks,
            span,
            peer_stats,
        } = *self;
        drop(peer_stats);
        spans::record_end(&span, closed);
        drop(span);
        let reason = closed.outcome.end.as_str();
        info!(
            source_peer = %sinks.pseudonyms.name(&closed.source),
            target_peer = %sinks.pseudonyms.name(&closed.target),
            bytes_to_target = closed.outcome.to_target,
            bytes_to_source = closed.outcome.to_source,
            duration_seconds = closed.duration.as_secs_f64(),
            reason,
            "circuit closed"
        );
        sinks.metrics.circuit_ended(reason, closed.duration);
    }
}
