//! Pending handshakes, and the eviction of one of them when there are too many.
//!
//! A handshake holds memory and a file descriptor for up to ten seconds, and costs the remote a single
//! packet. When the limit is reached, the oldest handshake of the address prefix that is furthest beyond
//! its share is evicted for the new one, so connections that send nothing evict only each other.
//! Handshakes whose address is not validated, which only QUIC has, are one group: packets with a forged
//! source address do not count against its prefix.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt};
use hashlink::LinkedHashMap;
use libp2p::{
    Multiaddr, PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, Transport, TransportError, TransportEvent},
    },
};
use resource_manager::ConnectionDenyReason;
use resource_manager::map_shrink::ShrinkIfSparse as _;
use resource_manager::{Prefix, Resources};
use tokio::{sync::oneshot, time::Instant};

use super::{ConnectionGater, ip_of};

/// The duration beyond which a handshake is unlikely to be that of an ordinary client.
const SLOW_HANDSHAKE: Duration = Duration::from_secs(2);

/// Handshakes with unvalidated addresses are evicted first once they exceed this fraction of the limit.
const UNVALIDATED_DIVISOR: u64 = 4;

/// The table of pending handshakes. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct PendingHandshakes {
    resources: Resources,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By sequence number, from the oldest to the newest.
    pending: LinkedHashMap<u64, Pending>,
    unvalidated: u64,
}

#[derive(Debug)]
struct Pending {
    /// The address of the peer, if it is validated.
    ip: Option<IpAddr>,
    started_at: Instant,
    evict: oneshot::Sender<()>,
}

/// The guard of a pending handshake, which is removed from the table when this is dropped.
#[derive(Debug)]
pub(super) struct PendingHandshake {
    table: PendingHandshakes,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

/// The handshake was evicted for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake was evicted: too many are pending")]
pub struct Evicted;

impl Evicted {
    /// The reason for logs and metrics.
    pub(super) const REASON: &str = ConnectionDenyReason::MaxPending.as_str();
}

impl From<Evicted> for io::Error {
    fn from(evicted: Evicted) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, evicted)
    }
}

/// The group of handshakes of which the oldest is evicted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Prefix(Prefix),
    Unvalidated,
    Any,
}

impl PendingHandshakes {
    /// An empty table, with the limit of `resources`.
    pub(super) fn new(resources: Resources) -> Self {
        Self {
            resources,
            table: Arc::default(),
        }
    }

    /// The maximum number of pending handshakes; at least 1.
    fn capacity(&self) -> u64 {
        u64::from(self.resources.limits().connections.pending).max(1)
    }

    /// Adds a handshake. `ip` is the address of the peer, if it is validated. Evicts another handshake
    /// if the table is full.
    pub(super) fn begin(&self, ip: Option<IpAddr>) -> PendingHandshake {
        let (evict, evicted) = oneshot::channel();
        let mut table = self.table();
        if table.pending.len() as u64 >= self.capacity() {
            self.evict(&mut table);
        }
        let number = table.next;
        table.next += 1;
        table.unvalidated += u64::from(ip.is_none());
        table.pending.insert(
            number,
            Pending {
                ip,
                started_at: Instant::now(),
                evict,
            },
        );
        self.resources.handshakes().add(ip);
        drop(table);
        PendingHandshake {
            table: self.clone(),
            number,
            evicted,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, table: &mut Table, number: u64) -> Option<Pending> {
        let pending = table.pending.remove(&number)?;
        table.pending.shrink_if_sparse();
        table.unvalidated -= u64::from(pending.ip.is_none());
        self.resources.handshakes().remove(pending.ip);
        Some(pending)
    }

    /// Evicts the oldest handshake of the group that is furthest beyond its share. If no group exceeds
    /// its share, the oldest of the host prefix with the most slow handshakes is evicted, or the oldest
    /// of all if none is slow.
    fn evict(&self, table: &mut Table) {
        let group = self.largest_group(table);
        let is_of_group = |ip: Option<IpAddr>| match (group, ip) {
            (Group::Any, _) | (Group::Unvalidated, None) => true,
            (Group::Prefix(prefix), Some(ip)) => prefix.contains(ip),
            _ => false,
        };
        let mut pending = table.pending.iter();
        let oldest = pending.find(|(_, pending)| is_of_group(pending.ip));
        if let Some(oldest) = oldest.map(|(number, _)| *number)
            && let Some(pending) = self.remove(table, oldest)
        {
            // The receiver is gone if the handshake has just ended.
            let _ = pending.evict.send(());
        }
    }

    fn largest_group(&self, table: &Table) -> Group {
        let capacity = self.capacity();
        let part = (capacity / UNVALIDATED_DIVISOR).max(1);
        let unvalidated = table.unvalidated.saturating_mul(1_000_000) / part;
        let unvalidated = (unvalidated > 1_000_000).then_some((unvalidated, Group::Unvalidated));
        let shares = self.resources.shares();
        let beyond = self.resources.handshakes().beyond_share(capacity, shares);
        let prefixes = beyond
            .into_iter()
            .map(|(prefix, excess)| (excess, Group::Prefix(prefix)));
        prefixes
            .chain(unvalidated)
            .max_by_key(|(excess, _)| *excess)
            .map_or_else(|| table.slowest_group(), |(_, group)| group)
    }
}

impl Table {
    /// The host prefix with the most handshakes that take longer than those of ordinary clients.
    fn slowest_group(&self) -> Group {
        let mut slow = HashMap::new();
        // The values are ordered by age.
        let is_slow = |pending: &&Pending| pending.started_at.elapsed() >= SLOW_HANDSHAKE;
        for ip in self
            .pending
            .values()
            .take_while(is_slow)
            .filter_map(|pending| pending.ip)
        {
            *slow.entry(Prefix::host(ip)).or_insert(0_usize) += 1;
        }
        slow.into_iter()
            .max_by_key(|(prefix, count)| (*count, *prefix))
            .map_or(Group::Any, |(prefix, _)| Group::Prefix(prefix))
    }
}

impl PendingHandshake {
    /// Runs `handshake` until it completes or is evicted.
    ///
    /// # Errors
    /// [`Evicted`] if it is evicted first.
    pub(super) async fn run<T>(mut self, handshake: impl Future<Output = T>) -> Result<T, Evicted> {
        tokio::select! {
            biased;
            result = handshake => Ok(result),
            // The sender is only dropped without a value when this guard is, so an error cannot occur
            // here.
            Ok(()) = &mut self.evicted => Err(Evicted),
        }
    }
}

impl Drop for PendingHandshake {
    fn drop(&mut self) {
        let mut table = self.table.table();
        self.table.remove(&mut table, self.number);
    }
}

/// A transport whose pending handshakes are limited. The remote addresses of its incoming connections
/// must be validated.
pub(super) struct HandshakeLimiter {
    inner: Boxed<Output>,
    gater: ConnectionGater,
}

type Output = (PeerId, StreamMuxerBox);
type Upgrade = BoxFuture<'static, io::Result<Output>>;

impl HandshakeLimiter {
    pub(super) fn new(inner: Boxed<Output>, gater: ConnectionGater) -> Self {
        Self { inner, gater }
    }
}

impl Transport for HandshakeLimiter {
    type Output = Output;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = <Boxed<Output> as Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Upgrade, io::Error>> {
        let event = Pin::new(&mut self.inner).poll(cx);
        event.map(|event| match event {
            TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } => TransportEvent::Incoming {
                listener_id,
                upgrade: self
                    .gater
                    .limit_handshake(ip_of(&send_back_addr), upgrade)
                    .boxed(),
                local_addr,
                send_back_addr,
            },
            other => other.map_upgrade(FutureExt::boxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;

    use super::*;
    use resource_manager::ConnectionLimits;
    use resource_manager::{CircuitLimits, ResourceLimits, Shares};

    fn table(pending: u32) -> PendingHandshakes {
        let limits = ResourceLimits {
            connections: ConnectionLimits { active: 1, pending },
            ..ResourceLimits::new(None, None, &CircuitLimits::default())
        };
        PendingHandshakes::new(Resources::new(limits, Shares::default()))
    }

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    /// Whether the handshake was evicted.
    fn is_evicted(handshake: PendingHandshake) -> bool {
        handshake.run(pending::<()>()).now_or_never().is_some()
    }

    #[test]
    fn handshakes_of_one_address_evict_only_each_other() {
        let table = table(16);
        let client = table.begin(ip("198.51.100.1"));
        let silent: Vec<_> = (0..40).map(|_| table.begin(ip("192.0.2.1"))).collect();
        assert_eq!(table.resources.handshakes().total(), 16);
        let evicted: Vec<_> = silent.into_iter().map(is_evicted).collect();
        assert_eq!(evicted.iter().filter(|evicted| **evicted).count(), 25);
        assert!(evicted[..25].iter().all(|evicted| *evicted), "the oldest");
        assert!(!is_evicted(client));
        assert_eq!(table.resources.handshakes().total(), 0);
    }

    #[test]
    fn forged_packets_do_not_evict_handshakes_of_an_address() {
        let table = table(16);
        let client = table.begin(ip("192.0.2.1"));
        let forged: Vec<_> = (0..40).map(|_| table.begin(None)).collect();
        let proven = table.begin(ip("192.0.2.1"));
        assert!(!is_evicted(client) && !is_evicted(proven));
        assert!(is_evicted(forged.into_iter().next().unwrap()));
    }

    #[test]
    fn oldest_is_evicted_when_no_prefix_exceeds_its_share() {
        let table = table(4);
        let all: Vec<_> = (0..5)
            .map(|n| table.begin(ip(&format!("192.0.{n}.1"))))
            .collect();
        let evicted: Vec<_> = all.into_iter().map(is_evicted).collect();
        assert_eq!(evicted, [true, false, false, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_handshakes_of_one_address_are_evicted_first() {
        let table = table(16);
        let first = table.begin(ip("198.51.100.1"));
        let silent = [(); 2].map(|()| table.begin(ip("192.0.2.1")));
        tokio::time::advance(SLOW_HANDSHAKE).await;
        let others: Vec<_> = (0..14)
            .map(|n| table.begin(ip(&format!("203.0.{n}.1"))))
            .collect();
        assert!(!is_evicted(first), "each of the others has fewer");
        let evicted = silent.map(is_evicted);
        assert_eq!(evicted, [true, false]);
        assert!(others.into_iter().all(|other| !is_evicted(other)));
    }

    #[test]
    fn completed_handshake_returns_its_result() {
        let table = table(1);
        let handshake = table.begin(None);
        assert_eq!(handshake.run(ready(7)).now_or_never(), Some(Ok(7)));
        assert_eq!(table.resources.handshakes().total(), 0);
    }
}
