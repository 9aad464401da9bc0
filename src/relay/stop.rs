//! Opens the second leg of a circuit.
//!
//! Specification: circuit-v2, section "Stop Protocol".

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use libp2p::{PeerId, Stream};
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};

use super::{
    connection::Connection,
    guards::Leg,
    limits::CircuitLimit,
    service::Relay,
    spans,
    wire::{self, Status},
};
use crate::telemetry::integer;

/// How long all attempts together may take.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How many of the target's connections are tried.
const MAX_ATTEMPTS: usize = 3;

/// Asks the target to accept a circuit from `source`: on the first connection, and on the next one
/// when that is dead or does not answer. `None` when none of them works or the target refuses.
pub(super) async fn open(
    relay: &Relay,
    connections: Vec<Arc<Connection>>,
    source: PeerId,
) -> Option<(Stream, Leg)> {
    let span = spans::stop();
    attempt(relay, &span, connections, source)
        .instrument(span.clone())
        .await
}

async fn attempt(
    relay: &Relay,
    span: &Span,
    connections: Vec<Arc<Connection>>,
    source: PeerId,
) -> Option<(Stream, Leg)> {
    let limit = relay.circuit_limit();
    let deadline = Instant::now() + STOP_TIMEOUT;
    let attempts = connections.len().min(MAX_ATTEMPTS);
    for (number, connection) in connections.iter().take(attempts).enumerate() {
        // A connection that is dead without knowing it must leave time for the next.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(attempts - number).unwrap_or(1);
        // From now on: a drain must not close a connection on which a circuit is on its way.
        let leg = Leg::new(Arc::clone(connection));
        let mut asked = Asked::new(relay, span, connection, number);
        let answer = timeout(share, handshake(connection, source, limit, share)).await;
        let (outcome, result) = match answer {
            Ok(Some((stream, Status::Ok))) => ("accepted", ControlFlow::Break(Some((stream, leg)))),
            // It is the target's own word: another connection would not change it.
            Ok(Some((_, _refused))) => ("refused", ControlFlow::Break(None)),
            Ok(None) | Err(_) => ("failed", ControlFlow::Continue(())),
        };
        asked.outcome = outcome;
        drop(asked);
        if let ControlFlow::Break(result) = result {
            return result;
        }
    }
    None
}

/// A target is being asked. However that ends, it is told of.
struct Asked<'a> {
    relay: &'a Relay,
    span: &'a Span,
    begun: Instant,
    /// "abandoned" while there is no answer: the source may give up first.
    outcome: &'static str,
}

impl<'a> Asked<'a> {
    fn new(relay: &'a Relay, span: &'a Span, connection: &Connection, number: usize) -> Self {
        span.record("relay.transport", connection.transport.as_str());
        span.record("relay.stop.attempts", integer(number + 1));
        Self {
            relay,
            span,
            begun: Instant::now(),
            outcome: "abandoned",
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        self.relay.metrics().stop(self.outcome, took);
        self.span.record("relay.outcome", self.outcome);
    }
}

async fn handshake(
    connection: &Connection,
    source: PeerId,
    limit: CircuitLimit,
    share: Duration,
) -> Option<(Stream, Status)> {
    let mut stream = connection.open_stop(share).await?;
    wire::write(&mut stream, &wire::stop(source, limit))
        .await
        .ok()?;
    let status = wire::read_stop_status(&mut stream).await.ok()?;
    Some((stream, status))
}
