//! Events of reservations and circuits, each reported to the log and to metrics.
//!
//! Peers appear as [`Pseudonyms`](crate::pseudonym::Pseudonyms); IP addresses do not appear.

use std::time::Duration;

use libp2p::PeerId;
use tracing::{debug, info};

use super::{
    circuit::Outcome,
    connection::Transport,
    deny_reason::Denied,
    ledger::{EndedReservation, ReservationEnd},
    service::{Relay, now},
};

/// Renewals at shorter intervals are logged at debug level: they are never refused, so a flood of
/// them must not flood the log.
const MIN_LOGGED_RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// A circuit that has ended.
#[derive(Debug)]
pub(super) struct ClosedCircuit {
    pub(super) outcome: Outcome,
    pub(super) duration: Duration,
}

/// `after` is the age of the grant that this one renews, if it is a renewal.
pub(super) fn reservation_accepted(
    relay: &Relay,
    peer: PeerId,
    after: Option<Duration>,
    ttl: Duration,
) {
    let (name, ttl_seconds) = (relay.pseudonyms().name(&peer), ttl.as_secs());
    let outcome = if let Some(after) = after {
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
    relay.metrics().request("reserve", outcome, "none");
    if let Some(peers) = relay.peer_stats() {
        peers.reserved(peer);
    }
}

/// Reports an early renewal that was answered with the existing expiry. Metrics count it as a
/// renewal; it is logged at debug level only, so that a flood of renewals does not flood the log.
pub(super) fn reservation_repeated(relay: &Relay, peer: PeerId) {
    debug!(peer = %relay.pseudonyms().name(&peer), "reservation renewed again");
    relay.metrics().request("reserve", "renewed", "none");
    if let Some(peers) = relay.peer_stats() {
        peers.reserved(peer);
    }
}

/// Reports the end of a reservation. `cause` is "not renewed", "disconnected" if the peer's last
/// connection was closed, or "not delivered" if the peer did not receive the grant.
pub(super) fn reservation_ended(
    relay: &Relay,
    EndedReservation { peer, since }: EndedReservation,
    end: ReservationEnd,
    cause: &'static str,
) {
    let how = end.as_str();
    let lasted = now().saturating_duration_since(since);
    // The drain closes the connections.
    let is_drained = relay.lifecycle().drain_token().is_cancelled() && cause == "disconnected";
    info!(
        peer = %relay.pseudonyms().name(&peer),
        duration_seconds = lasted.as_secs_f64(),
        cause = if is_drained { "draining" } else { cause },
        "reservation {how}"
    );
    relay.metrics().reservation_ended(how, lasted);
}

pub(super) fn circuit_accepted(
    relay: &Relay,
    (source, source_transport): (PeerId, Transport),
    (target, target_transport): (PeerId, Transport),
) {
    info!(
        source_peer = %relay.pseudonyms().name(&source),
        target_peer = %relay.pseudonyms().name(&target),
        source_transport = source_transport.as_str(),
        target_transport = target_transport.as_str(),
        "circuit accepted"
    );
    relay.metrics().request("connect", "accepted", "none");
}

pub(super) fn circuit_closed(
    relay: &Relay,
    source: PeerId,
    target: PeerId,
    closed: &ClosedCircuit,
) {
    let ClosedCircuit { outcome, duration } = closed;
    let reason = outcome.end.as_str();
    info!(
        source_peer = %relay.pseudonyms().name(&source),
        target_peer = %relay.pseudonyms().name(&target),
        bytes_to_target = outcome.to_target,
        bytes_to_source = outcome.to_source,
        duration_seconds = duration.as_secs_f64(),
        reason,
        "circuit closed"
    );
    relay.metrics().circuit_ended(reason, *duration);
}

/// `request` is "reserve", "connect", or "unknown" if none could be read. Log lines are limited by
/// the [`LogThrottle`](rate_limits::LogThrottle).
pub(super) fn request_denied(
    relay: &Relay,
    peer: PeerId,
    request: &'static str,
    Denied {
        reason: deny_reason,
        rule,
    }: &Denied,
) {
    let (status, reason) = deny_reason.status_and_reason();
    if relay.log_throttle().should_log("request", reason) {
        info!(
            peer = %relay.pseudonyms().name(&peer),
            request,
            status = status.name(),
            reason,
            rule,
            "request denied: {deny_reason}"
        );
    }
    relay.metrics().request(request, "denied", reason);
    if let Some(peers) = relay.peer_stats() {
        peers.denied(peer);
    }
}
