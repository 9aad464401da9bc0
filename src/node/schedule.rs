//! In which order and when the connections of a relay that drains are closed.
//!
//! Clients move to another relay when they see a disconnect, and only then. All at once would be a
//! stampede, so the idle connections get a moment each, spread over a window with jitter. One that
//! carries a circuit is closed when its moment has come *and* its last circuit has ended.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use libp2p::swarm::ConnectionId;
use rand::{Rng, RngExt, seq::SliceRandom};
use tokio::time::Instant;

use crate::relay::Connection;

/// How long a connection stays after its last circuit, so that the peer can read the circuit's end
/// first: many clients drop what they have not read when the connection goes.
const CIRCUIT_GRACE: Duration = Duration::from_millis(500);

/// When to close which connection.
#[derive(Debug)]
pub(super) struct Schedule {
    end: Instant,
    /// Those whose moment is still to come. The number tells apart those of one moment.
    waiting: BTreeMap<(Instant, usize), Arc<Connection>>,
    /// Those whose moment has come while they carried a circuit.
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

    /// A connection that came up late gets a random moment of what is left of the window.
    pub(super) fn add(&mut self, connection: Arc<Connection>, now: Instant, rng: &mut impl Rng) {
        let left = self.end.saturating_duration_since(now);
        self.insert(now + left.mul_f64(rng.random_range(0.0..1.0)), connection);
    }

    fn insert(&mut self, moment: Instant, connection: Arc<Connection>) {
        self.number += 1;
        self.waiting.insert((moment, self.number), connection);
    }

    /// When to ask [`Self::due`] again, unless a circuit ends before.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(moment, _)| *moment)
    }

    /// Takes the connections that are to be closed now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Arc<Connection>> {
        while let Some(first) = self
            .waiting
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            let connection = first.remove();
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
                Some(moment) if moment > now => self.insert(moment, connection),
                _ => due.push(connection),
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
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
    async fn a_busy_connection_outlives_its_moment_until_its_circuit_ends() {
        let now = Instant::now();
        let connections = connections(1);
        let connection = Arc::clone(&connections[0]);
        connection.circuit_started();
        let mut rng = StdRng::seed_from_u64(1);
        let mut schedule = Schedule::new(connections, now, Duration::ZERO, &mut rng);
        let later = now + Duration::from_secs(10);
        assert!(schedule.due(later).is_empty());
        tokio::time::advance(Duration::from_secs(10)).await;
        connection.circuit_stopped();
        assert!(schedule.due(later).is_empty());
        assert_eq!(schedule.next(), Some(later + CIRCUIT_GRACE));
        assert_eq!(schedule.due(later + CIRCUIT_GRACE).len(), 1);
        assert!(schedule.due(later + CIRCUIT_GRACE).is_empty());
    }
}
