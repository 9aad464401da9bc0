//! Opens the second leg of a circuit.
//!
//! Specification: circuit-v2, section "Stop Protocol".
//!
//! A target may have several connections, some of which are dead and not known to be. So the attempts
//! are staggered, as in "Happy Eyeballs" (RFC 8305): the most recently active connection is tried
//! first, and the next one when that has failed or has not answered for [`STAGGER`]. The first OK
//! wins; the streams of all other attempts are reset before a byte is forwarded, so that at most one
//! circuit comes of a request. A refusal is the target's decision, and ends all attempts.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::{PeerId, Stream};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{Instrument, Span};

use super::{
    connection::Connection,
    guards::CircuitLeg,
    limits::CircuitLimit,
    service::Relay,
    spans,
    wire::{self, Status},
};
use crate::telemetry::integer;

/// How long all attempts together may take. Clients wait for 10 s.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long an attempt may be without an answer before the next connection is tried.
const STAGGER: Duration = Duration::from_secs(1);
/// How many of the target's connections are tried. The last attempt still has 3 s.
const MAX_ATTEMPTS: usize = 6;

/// Asks the target to accept a circuit from `source` on one of its connections. `None` when none of
/// them works or the target refuses.
pub(super) async fn open(
    relay: &Relay,
    connections: Vec<Arc<Connection>>,
    source: PeerId,
) -> Option<(Stream, CircuitLeg)> {
    let span = spans::stop();
    attempt_all(relay, &span, by_activity(connections), source)
        .instrument(span.clone())
        .await
}

/// The most recently active connection first; of those that are equal, the order stays.
fn by_activity(mut connections: Vec<Arc<Connection>>) -> Vec<Arc<Connection>> {
    connections.sort_by_cached_key(|connection| Reverse(connection.last_active()));
    connections
}

async fn attempt_all(
    relay: &Relay,
    span: &Span,
    connections: Vec<Arc<Connection>>,
    source: PeerId,
) -> Option<(Stream, CircuitLeg)> {
    let mut report = Report::new(span);
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut untried = connections.into_iter().take(MAX_ATTEMPTS);
    let mut attempts = FuturesUnordered::new();
    loop {
        if let Some(connection) = untried.next() {
            report.begun(&connection);
            attempts.push(attempt(relay, connection, source, deadline));
        }
        let answer = if untried.len() == 0 {
            attempts.next().await
        } else {
            match timeout(STAGGER, attempts.next()).await {
                Ok(answer) => answer,
                Err(_) => continue,
            }
        };
        match answer {
            Some(Answer::Accepted(stream, leg)) => {
                report.accepted(leg.connection());
                return Some((stream, leg));
            }
            Some(Answer::Refused) => {
                report.outcome = "refused";
                return None;
            }
            Some(Answer::Failed) => {}
            None => {
                report.outcome = "failed";
                return None;
            }
        }
    }
}

/// What came of one attempt.
enum Answer {
    Accepted(Stream, CircuitLeg),
    /// The target itself answered: another connection would not change that.
    Refused,
    Failed,
}

async fn attempt(
    relay: &Relay,
    connection: Arc<Connection>,
    source: PeerId,
    deadline: Instant,
) -> Answer {
    // From now on: a drain must not close a connection on which a circuit is being opened.
    let leg = CircuitLeg::new(Arc::clone(&connection));
    let mut timing = Timing::new(relay);
    let handshake = handshake(&connection, source, relay.circuit_limit());
    let Ok(Some((stream, status))) = timeout_at(deadline, handshake).await else {
        timing.outcome = "failed";
        return Answer::Failed;
    };
    connection.note_activity(Instant::now());
    if status == Status::Ok {
        timing.outcome = "accepted";
        Answer::Accepted(stream, leg)
    } else {
        timing.outcome = "refused";
        Answer::Refused
    }
}

async fn handshake(
    connection: &Connection,
    source: PeerId,
    limit: CircuitLimit,
) -> Option<(Stream, Status)> {
    let mut stream = connection.open_stop(STOP_TIMEOUT).await?;
    wire::write(&mut stream, &wire::stop(source, limit))
        .await
        .ok()?;
    let status = wire::read_stop_status(&mut stream).await.ok()?;
    Some((stream, status))
}

/// Records how long an attempt took when it ends, however it does.
struct Timing<'a> {
    relay: &'a Relay,
    begun: Instant,
    /// "abandoned" while there is no answer: another attempt may be faster, or the source give up.
    outcome: &'static str,
}

impl<'a> Timing<'a> {
    fn new(relay: &'a Relay) -> Self {
        Self {
            relay,
            begun: Instant::now(),
            outcome: "abandoned",
        }
    }
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.relay
            .metrics()
            .stop(self.outcome, self.begun.elapsed());
    }
}

/// Records on the span what came of all attempts together.
struct Report<'a> {
    span: &'a Span,
    attempts: usize,
    transport: &'static str,
    outcome: &'static str,
}

impl<'a> Report<'a> {
    fn new(span: &'a Span) -> Self {
        Self {
            span,
            attempts: 0,
            transport: "",
            outcome: "abandoned",
        }
    }

    fn begun(&mut self, connection: &Connection) {
        self.attempts += 1;
        self.transport = connection.transport.as_str();
        self.outcome = "abandoned";
    }

    fn accepted(&mut self, connection: &Connection) {
        self.transport = connection.transport.as_str();
        self.outcome = "accepted";
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if self.attempts > 0 {
            self.span.record("relay.transport", self.transport);
        }
        self.span
            .record("relay.stop.attempts", integer(self.attempts));
        self.span.record("relay.outcome", self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{Multiaddr, swarm::ConnectionId};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn most_recently_active_connection_is_tried_first() {
        let remote: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let connections: Vec<_> = (0..4)
            .map(|number| {
                let id = ConnectionId::new_unchecked(number);
                Arc::new(Connection::new(PeerId::random(), id, None, &remote).0)
            })
            .collect();
        let order = || {
            let ordered = by_activity(connections.clone());
            ordered.iter().map(|c| c.id).collect::<Vec<_>>()
        };
        let ids = |numbers: [usize; 4]| numbers.map(ConnectionId::new_unchecked);
        assert_eq!(order(), ids([0, 1, 2, 3]), "all are equal");
        tokio::time::advance(Duration::from_secs(1)).await;
        connections[2].note_activity(Instant::now());
        assert_eq!(order(), ids([2, 0, 1, 3]));
        tokio::time::advance(Duration::from_secs(1)).await;
        connections[1].note_activity(Instant::now());
        assert_eq!(order(), ids([1, 2, 0, 3]));
    }
}
