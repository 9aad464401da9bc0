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

use circuit_relay::{ClosedCircuit, Denied, FinishedStop, Leg, Requester, wire::Request};
use libp2p::PeerId;
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    pseudonym::Pseudonyms,
    telemetry::{SPANS, integer},
};

/// Span of a request.
pub(super) fn request(names: &Pseudonyms, from: &Requester, request: &Request) -> Span {
    match request {
        Request::Reserve => reserve(names, from),
        Request::Connect(target) => connect(names, from, *target),
    }
}

fn reserve(names: &Pseudonyms, from: &Requester) -> Span {
    let span = info_span!(
        target: SPANS,
        "hop.reserve",
        otel.kind = "server",
        relay.peer = Empty,
        relay.transport = from.transport.as_str(),
        relay.outcome = Empty,
        relay.reason = Empty,
    );
    record_peer(&span, "relay.peer", names, from.peer);
    span
}

fn connect(names: &Pseudonyms, from: &Requester, target: PeerId) -> Span {
    let span = info_span!(
        target: SPANS,
        "hop.connect",
        otel.kind = "server",
        relay.source = Empty,
        relay.target = Empty,
        relay.transport = from.transport.as_str(),
        relay.outcome = Empty,
        relay.reason = Empty,
    );
    record_peer(&span, "relay.source", names, from.peer);
    record_peer(&span, "relay.target", names, target);
    span
}

/// Skips the hash while the span is disabled.
fn record_peer(span: &Span, field: &'static str, names: &Pseudonyms, peer: PeerId) {
    if !span.is_disabled() {
        span.record(field, tracing::field::display(names.name(&peer)));
    }
}

/// Records the outcome of a request.
pub(super) fn record_outcome(span: &Span, result: Result<(), &Denied>) {
    match result {
        Ok(()) => {
            span.record("relay.outcome", "accepted");
        }
        Err(denied) => {
            span.record("relay.outcome", "denied");
            span.record("relay.reason", denied.reason.status_and_reason().1);
        }
    }
}

/// Span of STOP, within that of the request.
pub(super) fn stop(request: &Span) -> Span {
    info_span!(
        target: SPANS,
        parent: request,
        "stop.connect",
        otel.kind = "client",
        relay.transport = Empty,
        relay.stop.attempts = Empty,
        relay.outcome = Empty,
    )
}

/// Records the result of STOP.
pub(super) fn record_stop(span: &Span, stop: &FinishedStop) {
    if let Some(transport) = stop.transport {
        span.record("relay.transport", transport.as_str());
    }
    span.record("relay.stop.attempts", integer(stop.attempts));
    span.record("relay.outcome", stop.outcome.as_str());
}

/// Span of a circuit that `request` opened. It is not a child in terms of `tracing`, because there
/// a parent does not close before its children.
pub(super) fn circuit(names: &Pseudonyms, request: &Span, source: Leg, target: Leg) -> Span {
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
    record_peer(&span, "relay.source", names, source.peer);
    record_peer(&span, "relay.target", names, target.peer);
    // Fails if no exporter is configured.
    let _ = span.set_parent(request.context());
    span
}

/// Records the end of a circuit.
pub(super) fn record_end(span: &Span, closed: &ClosedCircuit) {
    let outcome = &closed.outcome;
    span.record("relay.bytes_to_target", integer(outcome.to_target));
    span.record("relay.bytes_to_source", integer(outcome.to_source));
    span.record("relay.duration", closed.duration.as_secs_f64());
    span.record("relay.reason", outcome.end.as_str());
}
