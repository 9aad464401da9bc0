//! Tracing spans of the protocol.
//!
//! ```text
//! hop.reserve                     one request
//! hop.connect                     one request, until its answer
//! ├── stop.connect                STOP to the target
//! └── circuit                     until the circuit ends
//! ```
//!
//! Spans are created only while an exporter is configured. Peers appear as pseudonyms; IP addresses
//! do not appear.

use libp2p::PeerId;
use opentelemetry::Context;
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{connection::Connection, deny_reason::Denied, events::ClosedCircuit, service::Relay};
use crate::telemetry::{SPANS, integer};

/// Span of a RESERVE request.
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
    record_peer(&span, "relay.peer", relay, connection.peer);
    span
}

/// Span of a CONNECT request to `target`.
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
    record_peer(&span, "relay.source", relay, connection.peer);
    record_peer(&span, "relay.target", relay, target);
    span
}

/// Skips the hash while the span is disabled.
fn record_peer(span: &Span, field: &'static str, relay: &Relay, peer: PeerId) {
    if !span.is_disabled() {
        span.record(
            field,
            tracing::field::display(relay.pseudonyms().name(&peer)),
        );
    }
}

/// Records the outcome of a request.
pub(super) fn record_outcome<T>(span: &Span, answer: &Result<T, Denied>) {
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

/// Span of STOP, within that of the request.
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

/// The context that a later span refers to as its parent.
pub(super) fn context(span: &Span) -> Context {
    span.context()
}

/// Span of a circuit that the request of `cause` opened. It is not a child in terms of `tracing`,
/// because there a parent does not close before its children.
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
    record_peer(&span, "relay.source", relay, source.peer);
    record_peer(&span, "relay.target", relay, target.peer);
    // Fails if no exporter is configured.
    let _ = span.set_parent(cause);
    span
}

/// Records the end of a circuit.
pub(super) fn record_end(span: &Span, closed: &ClosedCircuit) {
    span.record("relay.bytes_to_target", integer(closed.outcome.to_target));
    span.record("relay.bytes_to_source", integer(closed.outcome.to_source));
    span.record("relay.duration", closed.duration.as_secs_f64());
    span.record("relay.reason", closed.outcome.end.as_str());
}
