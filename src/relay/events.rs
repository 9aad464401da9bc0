//! The event log: one line for each thing that happens to a reservation or a circuit.
//!
//! Peers appear under the names that [`Pseudonyms`] gives them, and IP addresses not at all.

use std::time::Duration;

use libp2p::PeerId;
use tracing::info;

use super::{circuit::Outcome, connection::Transport, deny::Deny};
use crate::pseudonym::Pseudonyms;

/// How a circuit ended.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) outcome: Outcome,
    pub(super) duration: Duration,
}

pub(super) fn reservation_accepted(names: &Pseudonyms, peer: PeerId, renewal: bool, ttl: Duration) {
    let (peer, ttl_seconds) = (names.name(&peer), ttl.as_secs());
    if renewal {
        info!(%peer, ttl_seconds, "reservation renewed");
    } else {
        info!(%peer, ttl_seconds, "reservation accepted");
    }
}

/// `how` is "expired", or "closed": with the peer's last connection, or because the peer could not
/// be told of it.
pub(super) fn reservation_ended(names: &Pseudonyms, peer: PeerId, how: &'static str) {
    info!(peer = %names.name(&peer), "reservation {how}");
}

pub(super) fn circuit_accepted(
    names: &Pseudonyms,
    (source, source_transport): (PeerId, Transport),
    (target, target_transport): (PeerId, Transport),
) {
    info!(
        source = %names.name(&source),
        target = %names.name(&target),
        source_transport = source_transport.as_str(),
        target_transport = target_transport.as_str(),
        "circuit accepted"
    );
}

pub(super) fn circuit_closed(names: &Pseudonyms, source: PeerId, target: PeerId, closed: &Closed) {
    let Closed { outcome, duration } = closed;
    info!(
        source = %names.name(&source),
        target = %names.name(&target),
        bytes_to_target = outcome.to_target,
        bytes_to_source = outcome.to_source,
        duration_seconds = duration.as_secs_f64(),
        reason = outcome.end.reason(),
        "circuit closed"
    );
}

/// `request` is "reserve", "connect", or "unknown" when there was none to read.
pub(super) fn request_denied(names: &Pseudonyms, peer: PeerId, request: &str, deny: Deny) {
    let (status, reason) = deny.parts();
    info!(
        peer = %names.name(&peer),
        request,
        status = status.name(),
        reason,
        "request denied: {deny}"
    );
}
