//! The end of a node: drain and close.

use std::{collections::HashSet, sync::Arc, time::Duration};

use circuit_relay::Relay;
use futures::StreamExt;
use libp2p::{PeerId, swarm::SwarmEvent};
use lifecycle::{Lifecycle, Phase};
use tokio::time::{Instant, Interval, timeout, timeout_at};
use tracing::{Span, field::Empty, info, info_span};
use transports::quic;

use super::{Node, schedule::Schedule, sleep_until, ticks};
use crate::telemetry::{SPANS, integer};

/// Interval of progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long cut circuits may take to end.
const CUT_TIMEOUT: Duration = Duration::from_millis(100);
/// How long to wait before connections are closed, so that resets of cut circuits can be sent: a
/// closed QUIC connection sends nothing else, and a full congestion window delays them by a round
/// trip.
const RESET_GRACE: Duration = Duration::from_millis(200);
/// How long closing may take when the process ends: once for the connections, then for all QUIC
/// endpoints.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// Reports the progress of a drain.
struct DrainProgress {
    ticks: Interval,
    deadline: Instant,
    bytes: u64,
}

impl DrainProgress {
    fn new(relay: &Relay, deadline: Instant) -> Self {
        let bytes = relay.statistics().bytes;
        Self {
            ticks: ticks(PROGRESS_INTERVAL),
            deadline,
            bytes,
        }
    }

    /// Completes at the time of the next report.
    async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    fn log(&mut self, relay: &Relay) {
        let now = relay.statistics();
        info!(
            circuits = now.circuits,
            reservations = now.reservations,
            bytes_moved = now.bytes - self.bytes,
            seconds_left = self
                .deadline
                .saturating_duration_since(Instant::now())
                .as_secs(),
            "drain in progress"
        );
        self.bytes = now.bytes;
    }
}

impl Node {
    /// Lets open circuits finish, until the deadline.
    pub(super) async fn drain(&mut self) {
        let span = info_span!(
            target: SPANS,
            parent: None,
            "drain",
            relay.circuits = Empty,
            relay.reservations = Empty,
            relay.circuits_finished = Empty,
            relay.circuits_cut = Empty,
            relay.reservations_moved = Empty,
        );
        self.drain_in_span(&span).await;
    }

    async fn drain_in_span(&mut self, span: &Span) {
        let phase = |name| info_span!(target: SPANS, parent: span, "drain phase", otel.name = name);
        let begun = Instant::now();
        let serves_until = begun + self.drain.delay;
        let deadline = serves_until + self.drain.timeout;
        self.lifecycle.enter(Phase::Draining {
            serves_until,
            deadline,
        });
        let relay = Arc::clone(&self.relay);
        relay.limit_circuits_to(deadline.into_std());
        let before = relay.statistics();
        info!(
            circuits = before.circuits,
            reservations = before.reservations,
            delay_seconds = self.drain.delay.as_secs_f64(),
            timeout_seconds = self.drain.timeout.as_secs_f64(),
            "draining"
        );
        span.record("relay.circuits", integer(before.circuits));
        span.record("relay.reservations", integer(before.reservations));
        let shutdown = self.lifecycle.shutdown_token().clone();
        let mut progress = DrainProgress::new(&relay, deadline);
        let delay = phase("drain.delay");
        let keep_serving = shutdown.run_until_cancelled(self.keep_serving(&mut progress));
        let _ = timeout_at(serves_until, keep_serving).await;

        drop(delay);

        let wait = phase("drain.wait");
        // A new client is refused a connection, not a reservation, so that it tries the next relay
        // at once.
        for (listener, _) in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        relay.drain(deadline.into_std());
        info!("no new connections are accepted");
        let mut moved = HashSet::new();
        let close_idle = shutdown.run_until_cancelled(self.close_idle(&mut progress, &mut moved));
        let _ = timeout_at(deadline, close_idle).await;

        drop(wait);

        let _cut = phase("drain.cut");
        // The remaining circuits are cut; the task of each one logs its end.
        shutdown.cancel();
        self.wait_for_circuits().await;
        let after = relay.statistics();
        if after.circuits_cut > before.circuits_cut {
            let _ = timeout(RESET_GRACE, self.serve()).await;
        }
        let circuits_finished = after.circuits_finished - before.circuits_finished;
        let circuits_cut = after.circuits_cut - before.circuits_cut;
        info!(
            circuits_finished,
            circuits_cut,
            reservations_moved = moved.len(),
            seconds = begun.elapsed().as_secs_f64(),
            "drained"
        );
        span.record("relay.circuits_finished", integer(circuits_finished));
        span.record("relay.circuits_cut", integer(circuits_cut));
        span.record("relay.reservations_moved", integer(moved.len()));
    }

    /// Serves normally.
    async fn keep_serving(&mut self, progress: &mut DrainProgress) {
        let relay = Arc::clone(&self.relay);
        loop {
            tokio::select! {
                biased;
                () = progress.tick() => progress.log(&relay),
                () = self.handle_next_event() => {}
            }
        }
    }

    /// Closes connections according to the schedule until none is left. Adds the peers whose
    /// reservation ends with a connection to `moved`.
    async fn close_idle(&mut self, progress: &mut DrainProgress, moved: &mut HashSet<PeerId>) {
        let mut rng = rand::rng();
        let relay = Arc::clone(&self.relay);
        let mut schedule = Schedule::new(
            relay.connections(),
            Instant::now(),
            self.drain.window,
            &mut rng,
        );
        while !self.has_no_connections() {
            tokio::select! {
                biased;
                () = progress.tick() => progress.log(&relay),
                () = sleep_until(schedule.next()) => {
                    self.close_due(&mut schedule, moved);
                }
                () = relay.circuit_ended() => self.close_due(&mut schedule, moved),
                event = self.swarm.select_next_some() => {
                    if let SwarmEvent::ConnectionEstablished { connection_id, .. } = event {
                        // Its handshake started before the listeners were closed.
                        let late = relay.connections().into_iter().find(|c| c.id == connection_id);
                        if let Some(late) = late {
                            schedule.add(late, Instant::now(), &mut rng);
                        }
                        self.count_pending();
                    } else {
                        self.on_event(event);
                    }
                }
            }
        }
    }

    fn close_due(&mut self, schedule: &mut Schedule, moved: &mut HashSet<PeerId>) {
        for connection in schedule.due(Instant::now()) {
            if connection.holds_reservation() {
                moved.insert(connection.peer);
            }
            let _ = self.swarm.close_connection(connection.id);
        }
    }

    /// Whether no connection is left. After a panic the swarm keeps the connection of the panicked
    /// task, but the reservation table does not.
    fn has_no_connections(&self) -> bool {
        self.connections() == 0
            || (self.lifecycle.has_failed() && self.relay.statistics().peers == 0)
    }

    /// Waits for a bounded time until the end of every cut circuit has been logged.
    async fn wait_for_circuits(&mut self) {
        let relay = Arc::clone(&self.relay);
        let over = async {
            while relay.open_circuits() > 0 {
                tokio::select! {
                    () = relay.circuit_ended() => {}
                    event = self.swarm.select_next_some() => self.on_event(event),
                }
            }
        };
        let _ = timeout(CUT_TIMEOUT, over).await;
    }

    /// Closes all circuits and connections, so that peers detect it at once instead of by a
    /// timeout.
    pub(super) async fn close(mut self) {
        self.lifecycle.enter(Phase::Stopped);
        self.lifecycle.shutdown_token().cancel();
        for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while !self.has_no_connections() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, closed).await;
        let (quic, lifecycle) = (self.quic.clone(), self.lifecycle.clone());
        drop(self);
        close_remaining(&quic, &lifecycle).await;
    }
}

/// Closes what does not need the swarm, and waits for a bounded time for the tasks of the process.
pub(super) async fn close_remaining(quic: &quic::Handle, lifecycle: &Lifecycle) {
    lifecycle.shutdown_token().cancel();
    quic.close_all(0);
    let rest = async { tokio::join!(quic.wait_idle(), lifecycle.wait()) };
    let _ = timeout(CLOSE_TIMEOUT, rest).await;
}
