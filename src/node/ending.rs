//! How a node ends: the drain, and the close.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use libp2p::swarm::SwarmEvent;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use super::{Node, schedule::Schedule, sleep_until, ticks};
use crate::lifecycle::Phase;

/// How often a drain tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long the resets of circuits that were cut have to leave before the connections are closed:
/// a QUIC connection that is closed sends nothing else any more, and a full congestion window holds
/// them up for a round trip.
const RESET_GRACE: Duration = Duration::from_millis(200);
/// How long the last words to the peers may take when the process ends.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

impl Node {
    /// Lets everything that is open finish, until the deadline.
    pub(super) async fn drain(&mut self) {
        let begun = Instant::now();
        let serves_until = begun + self.drain.delay;
        let deadline = serves_until + self.drain.timeout;
        self.lifecycle.enter(Phase::Draining {
            serves_until,
            deadline,
        });
        let before = self.relay.statistics();
        info!(
            circuits = before.circuits,
            reservations = before.reservations,
            delay_seconds = self.drain.delay.as_secs_f64(),
            timeout_seconds = self.drain.timeout.as_secs_f64(),
            "draining"
        );
        let hard = self.lifecycle.hard().clone();
        let _ = timeout_at(serves_until, hard.run_until_cancelled(self.serve())).await;

        // A newcomer is refused a connection, not a reservation: it tries the next relay at once.
        for (listener, _) in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        self.relay.drain(deadline.into_std());
        info!("no new connections are accepted");
        let mut moved = 0;
        let close_idle = hard.run_until_cancelled(self.close_idle(deadline, &mut moved));
        let _ = timeout_at(deadline, close_idle).await;

        // What is left is cut; each circuit's task says so before it ends.
        hard.cancel();
        self.circuits_over().await;
        let after = self.relay.statistics();
        if after.circuits_cut > before.circuits_cut {
            let _ = timeout(RESET_GRACE, self.serve()).await;
        }
        info!(
            circuits_finished = after.circuits_finished - before.circuits_finished,
            circuits_cut = after.circuits_cut - before.circuits_cut,
            reservations_moved = moved,
            seconds = begun.elapsed().as_secs_f64(),
            "drained"
        );
    }

    /// Closes connections as their moment comes, until none is left.
    async fn close_idle(&mut self, deadline: Instant, moved: &mut usize) {
        let mut rng = rand::rng();
        let connections = self.relay.connections();
        let mut schedule = Schedule::new(connections, Instant::now(), self.drain.window, &mut rng);
        let mut progress = ticks(PROGRESS_INTERVAL);
        let mut bytes = self.relay.statistics().bytes;
        let relay = Arc::clone(&self.relay);
        while self.connections() > 0 {
            for connection in schedule.due(Instant::now()) {
                *moved += usize::from(connection.is_holder());
                let _ = self.swarm.close_connection(connection.id);
            }
            tokio::select! {
                biased;
                _ = progress.tick() => {
                    let now = self.relay.statistics();
                    info!(
                        circuits = now.circuits,
                        reservations = now.reservations,
                        bytes_moved = now.bytes - bytes,
                        seconds_left =
                            deadline.saturating_duration_since(Instant::now()).as_secs(),
                        "drain goes on"
                    );
                    bytes = now.bytes;
                }
                () = sleep_until(schedule.next()) => {}
                () = relay.circuit_ended() => {}
                event = self.swarm.select_next_some() => {
                    if let SwarmEvent::ConnectionEstablished { connection_id, .. } = event {
                        // Its handshake had begun before the listeners were closed.
                        let late = relay.connections().into_iter().find(|c| c.id == connection_id);
                        if let Some(late) = late {
                            schedule.add(late, Instant::now(), &mut rng);
                        }
                    } else {
                        self.on_event(event);
                    }
                }
            }
        }
    }

    /// Waits, not for long, until every circuit that was cut is off the books.
    async fn circuits_over(&mut self) {
        let relay = Arc::clone(&self.relay);
        let over = async {
            while relay.statistics().circuits > 0 {
                tokio::select! {
                    () = relay.circuit_ended() => {}
                    event = self.swarm.select_next_some() => self.on_event(event),
                }
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, over).await;
    }

    /// Ends every circuit and connection, so that peers learn it now and not by a timeout.
    pub(super) async fn close(mut self) {
        self.lifecycle.enter(Phase::Stopped);
        self.lifecycle.hard().cancel();
        for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.connections() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, closed).await;
        self.quic.close_all(0);
        let _ = timeout(CLOSE_TIMEOUT, self.quic.wait_idle()).await;
        let lifecycle = self.lifecycle.clone();
        drop(self);
        let _ = timeout(CLOSE_TIMEOUT, lifecycle.wait()).await;
    }
}
