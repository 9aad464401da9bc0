//! The spans of the protocol, for distributed tracing.
//!
//! ```text
//! hop.reserve                     one request
//! hop.connect                     one request, until it is answered
//! ├── stop.connect                the target is asked
//! └── circuit                     until the circuit is over
//! ```
//!
//! They exist only while somebody exports them. Peers appear under their pseudonyms, and IP
//! addresses not at all.

use libp2p::PeerId;
use opentelemetry::Context;
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{connection::Connection, deny_reason::Denied, events::ClosedCircuit, service::Relay};
use crate::telemetry::{SPANS, integer};

/// A request to reserve.
pub(super) fn reserve(relay: &Relay, connection: &Connection) -> Span {
    let span = info_span!(
        target: SPANS,
        "hop.reserve",
        otel.kind = "server",
        relay.peer = Empty,
        relay.transport = connection.transport.as_str(),
        relay.outcome = Empty,
        relay.reason = Empty,
    );
    name(&span, "relay.peer", relay, connection.peer);
    span
}

/// A request to connect to `target`.
pub(super) fn connect(relay: &Relay, connection: &Connection, target: PeerId) -> Span {
    let span = info_span!(
        target: SPANS,
        "hop.connect",
        otel.kind = "server",
        relay.source = Empty,
        relay.target = Empty,
        relay.transport = connection.transport.as_str(),
        relay.outcome = Empty,
        relay.reason = Empty,
    );
    name(&span, "relay.source", relay, connection.peer);
    name(&span, "relay.target", relay, target);
    span
}

/// A hash for nobody would be a waste.
fn name(span: &Span, field: &'static str, relay: &Relay, peer: PeerId) {
    if !span.is_disabled() {
        span.record(
            field,
            tracing::field::display(relay.pseudonyms().name(&peer)),
        );
    }
}

/// The request of `span` has got its answer.
pub(super) fn answered<T>(span: &Span, answer: &Result<T, Denied>) {
    match answer {
        Ok(_) => {
            span.record("relay.outcome", "accepted");
        }
        Err(denied) => {
            span.record("relay.outcome", "denied");
            span.record("relay.reason", denied.reason.status_and_reason().1);
        }
    }
}

/// A target is asked to accept a circuit; within the request.
pub(super) fn stop() -> Span {
    info_span!(
        target: SPANS,
        "stop.connect",
        otel.kind = "client",
        relay.transport = Empty,
        relay.stop.attempts = Empty,
        relay.outcome = Empty,
    )
}

/// What a later span refers to as its cause.
pub(super) fn context(span: &Span) -> Context {
    span.context()
}

/// A circuit, opened by the request of `cause`. It is no child in the sense of `tracing`, where a
/// parent ends with its last child.
pub(super) fn circuit(
    relay: &Relay,
    cause: Context,
    source: &Connection,
    target: &Connection,
) -> Span {
    let span = info_span!(
        target: SPANS,
        parent: None,
        "circuit",
        relay.source = Empty,
        relay.target = Empty,
        relay.source_transport = source.transport.as_str(),
        relay.target_transport = target.transport.as_str(),
        relay.bytes_to_target = Empty,
        relay.bytes_to_source = Empty,
        relay.duration = Empty,
        relay.reason = Empty,
    );
    name(&span, "relay.source", relay, source.peer);
    name(&span, "relay.target", relay, target.peer);
    // Nobody may be listening.
    let _ = span.set_parent(cause);
    span
}

/// The circuit of `span` is over.
pub(super) fn circuit_closed(span: &Span, closed: &ClosedCircuit) {
    span.record("relay.bytes_to_target", integer(closed.outcome.to_target));
    span.record("relay.bytes_to_source", integer(closed.outcome.to_source));
    span.record("relay.duration", closed.duration.as_secs_f64());
    span.record("relay.reason", closed.outcome.end.as_str());
}
