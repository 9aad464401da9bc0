//! Connections to the admin API: a bound on their number, and which one is replaced at the bound.
//!
//! Health checks must be answered while clients that never read hold all connections. Reserving
//! capacity for `/livez` and `/readyz` does not help: the path is known only after the request has been
//! read, and clients that send none would hold that capacity as well. Instead, a new connection is
//! always served at once. At the bound, it replaces the oldest connection of the address prefix with
//! most connections, so a Prometheus or a supervisor at another address keeps its connections. A
//! connection is not replaced within its first moments, long enough to respond to a request that is
//! sent with it, so a flood of connections from the supervisor's own address does not suppress the
//! response.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use resource_manager::Prefix;
use tokio::{
    select,
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Maximum number of connections.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Minimum time before a connection can be replaced. New connections wait for at most that long; with
/// a full backlog of 1024, the last of them waits 0.4 s.
const MIN_AGE: Duration = Duration::from_millis(10);

/// The open connections. Clones share the same state.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// In the order in which they were accepted.
    open: Vec<OpenConnection>,
    next_id: u64,
}

#[derive(Debug)]
struct OpenConnection {
    id: u64,
    prefix: Prefix,
    since: Instant,
    replaced: CancellationToken,
}

/// Registers an open connection until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    id: u64,
    shared: Arc<Shared>,
    replaced: CancellationToken,
}

impl Connections {
    /// Registers a connection from `ip`, once there is room for it.
    pub(super) async fn register(&self, ip: IpAddr) -> ConnectionPermit {
        while let Some(until) = self.try_replace() {
            select! {
                () = sleep_until(until) => {}
                () = self.0.closed.notified() => {}
            }
        }
        let replaced = CancellationToken::new();
        let mut table = self.0.table();
        let id = table.next_id;
        table.next_id += 1;
        table.open.push(OpenConnection {
            id,
            prefix: Prefix::host(ip),
            since: Instant::now(),
            replaced: replaced.clone(),
        });
        ConnectionPermit {
            id,
            shared: Arc::clone(&self.0),
            replaced,
        }
    }

    /// Replaces a connection at the bound; returns the time to try again if it is too early.
    fn try_replace(&self) -> Option<Instant> {
        let mut table = self.0.table();
        if table.open.len() < MAX_CONNECTIONS {
            return None;
        }
        let oldest = table.oldest_of_largest_prefix()?;
        let until = table.open.get(oldest)?.since + MIN_AGE;
        if Instant::now() < until {
            return Some(until);
        }
        table.open.remove(oldest).replaced.cancel();
        None
    }
}

impl Table {
    /// The oldest connection of the prefix with most connections.
    fn oldest_of_largest_prefix(&self) -> Option<usize> {
        let mut numbers: HashMap<Prefix, usize> = HashMap::new();
        for open in &self.open {
            *numbers.entry(open.prefix).or_default() += 1;
        }
        let most = numbers.values().copied().max()?;
        let is_largest = |open: &OpenConnection| numbers.get(&open.prefix) == Some(&most);
        self.open.iter().position(is_largest)
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionPermit {
    /// Completes when another connection replaces this one.
    pub(super) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.shared.table().open.retain(|open| open.id != self.id);
        self.shared.closed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY_PREFIX: [u8; 4] = [192, 0, 2, 1];
    const OTHER: [u8; 4] = [192, 0, 2, 2];

    fn is_replaced(guard: &ConnectionPermit) -> bool {
        guard.replaced.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn new_connection_replaces_oldest_of_the_largest_prefix() {
        let connections = Connections::default();
        let other = connections.register(OTHER.into()).await;
        let mut busy = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            busy.push(connections.register(BUSY_PREFIX.into()).await);
        }
        assert!(!is_replaced(&other));
        let replaced = busy.iter().filter(|guard| is_replaced(guard)).count();
        assert_eq!(replaced, MAX_CONNECTIONS + 1);
        assert!(busy.iter().take(replaced).all(is_replaced));
        drop((other, busy));
        assert!(connections.0.table().open.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_is_not_replaced_in_its_first_moments() {
        let connections = Connections::default();
        let mut open = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            open.push(connections.register(BUSY_PREFIX.into()).await);
        }
        let begin = Instant::now();
        let next = connections.register(BUSY_PREFIX.into()).await;
        assert_eq!(begin.elapsed(), MIN_AGE);
        assert!(open.first().is_some_and(is_replaced));
        drop((open, next));
    }

    #[tokio::test(start_paused = true)]
    async fn closed_connection_is_replaced_at_once() {
        let connections = Connections::default();
        let mut open = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            open.push(connections.register(BUSY_PREFIX.into()).await);
        }
        let begin = Instant::now();
        let closing = async { drop(open.pop()) };
        let (next, ()) = tokio::join!(connections.register(BUSY_PREFIX.into()), closing);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert!(!open.iter().any(is_replaced));
        drop(next);
    }
}
