//! The order and times in which a draining relay closes its connections.
//!
//! Clients move to another relay only when they are disconnected. Closing all connections at once
//! would cause a thundering herd, so they are spread over a window with jitter. A connection with a
//! circuit is closed when its time has come *and* its last circuit has ended. From its time on, it
//! takes no further circuits unless an earlier one is open, so that this moment comes even if circuits
//! follow one another.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use circuit_relay::Connection;
use libp2p::swarm::ConnectionId;
use rand::{Rng, RngExt, seq::SliceRandom};
use tokio::time::Instant;

/// How long a connection stays open after its last circuit, so that the peer can read the end of
/// the circuit: many clients drop unread data when the connection is closed.
const CIRCUIT_GRACE: Duration = Duration::from_millis(500);

/// When to close each connection.
#[derive(Debug)]
pub(super) struct Schedule {
    end: Instant,
    /// Connections whose time has not come yet. The number makes the keys unique.
    waiting: BTreeMap<(Instant, usize), Arc<Connection>>,
    /// Connections whose time has come while they had a circuit.
    busy: HashMap<ConnectionId, Arc<Connection>>,
    number: usize,
}

impl Schedule {
    /// Spreads `connections` over `window` from `now` on, in random order.
    pub(super) fn new(
        mut connections: Vec<Arc<Connection>>,
        now: Instant,
        window: Duration,
        rng: &mut impl Rng,
    ) -> Self {
        connections.shuffle(rng);
        let share = window / u32::try_from(connections.len()).unwrap_or(u32::MAX).max(1);
        let mut schedule = Self {
            end: now + window,
            waiting: BTreeMap::new(),
            busy: HashMap::new(),
            number: 0,
        };
        let mut begin = now;
        for connection in connections {
            schedule.insert(
                begin + share.mul_f64(rng.random_range(0.0..1.0)),
                connection,
            );
            begin += share;
        }
        schedule
    }

    /// Adds a new connection at a random time within the rest of the window.
    pub(super) fn add(&mut self, connection: Arc<Connection>, now: Instant, rng: &mut impl Rng) {
        let left = self.end.saturating_duration_since(now);
        self.insert(now + left.mul_f64(rng.random_range(0.0..1.0)), connection);
    }

    fn insert(&mut self, time: Instant, connection: Arc<Connection>) {
        self.number += 1;
        self.waiting.insert((time, self.number), connection);
    }

    /// When to call [`Self::due`] again, unless a circuit ends before.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(time, _)| *time)
    }

    /// Takes the connections that have to be closed now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Arc<Connection>> {
        while let Some(first) = self
            .waiting
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            let connection = first.remove();
            connection.drain();
            self.busy.insert(connection.id, connection);
        }
        let idle: Vec<_> = self
            .busy
            .extract_if(|_, c| !c.is_busy())
            .map(|(_, c)| c)
            .collect();
        let mut due = Vec::new();
        for connection in idle {
            match connection
                .last_circuit_ended()
                .map(|ended| ended + CIRCUIT_GRACE)
            {
                Some(time) if time > now => self.insert(time, connection),
                _ => due.push(connection),
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use circuit_relay::CircuitLeg;
    use libp2p::{Multiaddr, PeerId};
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn connections(number: usize) -> Vec<Arc<Connection>> {
        let remote: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let connection = |id| {
            Connection::new(
                PeerId::random(),
                ConnectionId::new_unchecked(id),
                None,
                &remote,
            )
            .0
        };
        (0..number).map(connection).map(Arc::new).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_spread_over_the_window() {
        let (now, window) = (Instant::now(), Duration::from_secs(100));
        let mut schedule =
            Schedule::new(connections(100), now, window, &mut StdRng::seed_from_u64(1));
        let mut closed = 0;
        for second in 1..=100 {
            let due = schedule.due(now + Duration::from_secs(second)).len();
            assert_eq!(due, 1, "in second {second}");
            closed += due;
        }
        assert_eq!(closed, 100);
        assert_eq!(schedule.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn busy_connection_stays_open_until_its_circuit_ends() {
        let now = Instant::now();
        let connections = connections(1);
        let connection = Arc::clone(&connections[0]);
        let circuit = CircuitLeg::open(&connection).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let mut schedule = Schedule::new(connections, now, Duration::ZERO, &mut rng);
        let later = now + Duration::from_secs(10);
        assert!(schedule.due(later).is_empty());
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(circuit);
        assert!(schedule.due(later).is_empty());
        assert_eq!(schedule.next(), Some(later + CIRCUIT_GRACE));
        assert_eq!(schedule.due(later + CIRCUIT_GRACE).len(), 1);
        assert!(schedule.due(later + CIRCUIT_GRACE).is_empty());
    }
}
