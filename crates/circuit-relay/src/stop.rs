//! Opens the second leg of a circuit.
//!
//! Specification: circuit-v2, section "Stop Protocol".
//!
//! A target may have several connections, some of which are dead but not detected as such. The
//! attempts are therefore staggered, as in "Happy Eyeballs" (RFC 8305): the most recently active
//! connection is tried first, and the next one when the attempt has failed or has been pending for
//! [`STAGGER`]. The first OK wins. The streams of all other attempts are reset before any data is
//! forwarded, so a request opens at most one circuit. A refusal is the target's decision, and ends
//! all attempts.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::{PeerId, Stream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    connection::Connection,
    guards::CircuitLeg,
    limits::CircuitLimit,
    observer::{FinishedStop, RequestObserver, StopObserver, StopOutcome},
    service::Relay,
    wire::{self, Status},
};

/// Deadline for all attempts together. Clients wait for 10 s.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long an attempt may be pending before the next connection is tried.
const STAGGER: Duration = Duration::from_secs(1);
/// Maximum number of connections that are tried. The last attempt has 3 s left.
const MAX_ATTEMPTS: usize = 6;

/// Sends STOP for a circuit from `source` with this `limit` on the target's connections. `None` if
/// all attempts fail or the target refuses.
pub(super) async fn open(
    relay: &Relay,
    connections: Vec<Arc<Connection>>,
    source: PeerId,
    limit: CircuitLimit,
    observer: &dyn RequestObserver,
) -> Option<(Stream, CircuitLeg)> {
    let report = StopReport::new(observer.stop());
    try_connections(relay, report, by_activity(connections), source, limit).await
}

/// Sorts by activity, most recent first. The sort is stable.
fn by_activity(mut connections: Vec<Arc<Connection>>) -> Vec<Arc<Connection>> {
    connections.sort_by_cached_key(|connection| Reverse(connection.last_active()));
    connections
}

async fn try_connections(
    relay: &Relay,
    mut report: StopReport,
    connections: Vec<Arc<Connection>>,
    source: PeerId,
    limit: CircuitLimit,
) -> Option<(Stream, CircuitLeg)> {
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut untried = connections.into_iter().take(MAX_ATTEMPTS);
    let mut attempts = FuturesUnordered::new();
    loop {
        if let Some(connection) = untried.next() {
            report.attempt_started(&connection);
            attempts.push(attempt(relay, connection, source, limit, deadline));
        }
        let result = if untried.len() == 0 {
            attempts.next().await
        } else {
            match timeout(STAGGER, attempts.next()).await {
                Ok(result) => result,
                Err(_) => continue,
            }
        };
        match result {
            Some(AttemptResult::Accepted(stream, leg)) => {
                report.accepted(leg.connection());
                return Some((stream, leg));
            }
            Some(AttemptResult::Refused) => {
                report.finished.outcome = StopOutcome::Refused;
                return None;
            }
            Some(AttemptResult::Failed) => {}
            None => {
                report.finished.outcome = StopOutcome::Failed;
                return None;
            }
        }
    }
}

/// Result of one attempt.
enum AttemptResult {
    Accepted(Stream, CircuitLeg),
    /// Refused by the target itself: another connection would not change that.
    Refused,
    Failed,
}

async fn attempt(
    relay: &Relay,
    connection: Arc<Connection>,
    source: PeerId,
    limit: CircuitLimit,
    deadline: Instant,
) -> AttemptResult {
    // Created before the handshake, so that a drain does not close a connection on which a circuit
    // is being opened.
    let Some(leg) = CircuitLeg::open(&connection) else {
        return AttemptResult::Failed;
    };
    let mut timing = AttemptTimer::new(relay);
    let handshake = handshake(&connection, source, limit);
    let Ok(Some((stream, status))) = timeout_at(deadline, handshake).await else {
        timing.outcome = StopOutcome::Failed;
        return AttemptResult::Failed;
    };
    connection.record_activity(Instant::now());
    if status == Status::Ok {
        timing.outcome = StopOutcome::Accepted;
        AttemptResult::Accepted(stream, leg)
    } else {
        timing.outcome = StopOutcome::Refused;
        AttemptResult::Refused
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

/// Reports an attempt when it is dropped.
struct AttemptTimer<'a> {
    relay: &'a Relay,
    started: Instant,
    /// [`StopOutcome::Abandoned`] until there is an answer.
    outcome: StopOutcome,
}

impl<'a> AttemptTimer<'a> {
    fn new(relay: &'a Relay) -> Self {
        Self {
            relay,
            started: Instant::now(),
            outcome: StopOutcome::Abandoned,
        }
    }
}

impl Drop for AttemptTimer<'_> {
    fn drop(&mut self) {
        self.relay
            .observer()
            .stop_attempted(self.outcome, self.started.elapsed());
    }
}

/// Reports the result of all attempts when it is dropped.
struct StopReport {
    observer: Box<dyn StopObserver>,
    finished: FinishedStop,
}

impl StopReport {
    fn new(observer: Box<dyn StopObserver>) -> Self {
        Self {
            observer,
            finished: FinishedStop {
                attempts: 0,
                transport: None,
                outcome: StopOutcome::Abandoned,
            },
        }
    }

    fn attempt_started(&mut self, connection: &Connection) {
        self.finished.attempts += 1;
        self.finished.transport = Some(connection.transport);
        self.finished.outcome = StopOutcome::Abandoned;
    }

    fn accepted(&mut self, connection: &Connection) {
        self.finished.transport = Some(connection.transport);
        self.finished.outcome = StopOutcome::Accepted;
    }
}

impl Drop for StopReport {
    fn drop(&mut self) {
        self.observer.finished(&self.finished);
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
        connections[2].record_activity(Instant::now());
        assert_eq!(order(), ids([2, 0, 1, 3]));
        tokio::time::advance(Duration::from_secs(1)).await;
        connections[1].record_activity(Instant::now());
        assert_eq!(order(), ids([1, 2, 0, 3]));
    }
}
