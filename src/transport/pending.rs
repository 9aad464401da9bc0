//! The handshakes that are under way, and which one gives way when there are too many.
//!
//! A handshake holds memory and a file descriptor for up to ten seconds, and costs the remote side
//! nothing but a packet. When the limit is reached, the oldest handshake of the address prefix that
//! is furthest beyond its share gives way to the new one, so that silent connections take only each
//! other's places. Handshakes whose address is not proven yet, which only QUIC has, are one group:
//! packets in the name of an address take nothing from it.

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
use tokio::{sync::oneshot, time::Instant};

use super::{ConnectionGater, ip_of};
use crate::{
    connection_deny_reason::ConnectionDenyReason,
    resources::{Prefix, Resources},
    shrink::Shrink as _,
};

/// A handshake that takes so long is none of an ordinary client on a network that works.
const SLOW: Duration = Duration::from_secs(2);

/// Handshakes with an unproven address may be one in so many of all before they give way first.
const UNPROVEN_PART: u64 = 4;

/// All handshakes that are under way. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct PendingHandshakes {
    resources: Resources,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// From the oldest to the newest, by their number.
    pending: LinkedHashMap<u64, Pending>,
    unproven: u64,
}

#[derive(Debug)]
struct Pending {
    /// Where it comes from, if that is proven.
    ip: Option<IpAddr>,
    begun: Instant,
    evict: oneshot::Sender<()>,
}

/// One handshake that is under way, for as long as this lives.
#[derive(Debug)]
pub(super) struct PendingHandshake {
    table: PendingHandshakes,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

/// The handshake gave way to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake gave way to others: too many are under way")]
pub struct Evicted;

impl Evicted {
    /// For logs and metrics.
    pub(super) const REASON: &str = ConnectionDenyReason::MaxPending.as_str();
}

impl From<Evicted> for io::Error {
    fn from(evicted: Evicted) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, evicted)
    }
}

/// Whose handshake gives way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Prefix(Prefix),
    Unproven,
    Any,
}

impl PendingHandshakes {
    /// None yet, and at most as many as `resources` has room for.
    pub(super) fn new(resources: Resources) -> Self {
        Self {
            resources,
            table: Arc::default(),
        }
    }

    /// How many may be under way; at least 1.
    fn capacity(&self) -> u64 {
        u64::from(self.resources.limits().connections.pending).max(1)
    }

    /// One more begins, from `ip` if that address is proven to be the sender's. When there are too
    /// many already, another one gives way to it.
    pub(super) fn begin(&self, ip: Option<IpAddr>) -> PendingHandshake {
        let (evict, evicted) = oneshot::channel();
        let mut table = self.table();
        if table.pending.len() as u64 >= self.capacity() {
            self.evict(&mut table);
        }
        let number = table.next;
        table.next += 1;
        table.unproven += u64::from(ip.is_none());
        table.pending.insert(
            number,
            Pending {
                ip,
                begun: Instant::now(),
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
        table.pending.shrink_when_sparse();
        table.unproven -= u64::from(pending.ip.is_none());
        self.resources.handshakes().remove(pending.ip);
        Some(pending)
    }

    /// The oldest handshake of the group that is furthest beyond its share gives way. If no group is
    /// beyond its share, it is that of the host prefix with most handshakes that are slow, or the
    /// oldest of all.
    fn evict(&self, table: &mut Table) {
        let group = self.largest_group(table);
        let is_of_group = |ip: Option<IpAddr>| match (group, ip) {
            (Group::Any, _) | (Group::Unproven, None) => true,
            (Group::Prefix(prefix), Some(ip)) => prefix.contains(ip),
            _ => false,
        };
        let mut pending = table.pending.iter();
        let oldest = pending.find(|(_, pending)| is_of_group(pending.ip));
        if let Some(oldest) = oldest.map(|(number, _)| *number)
            && let Some(pending) = self.remove(table, oldest)
        {
            // Its handshake may have ended just now.
            let _ = pending.evict.send(());
        }
    }

    fn largest_group(&self, table: &Table) -> Group {
        let capacity = self.capacity();
        let part = (capacity / UNPROVEN_PART).max(1);
        let unproven = table.unproven.saturating_mul(1_000_000) / part;
        let unproven = (unproven > 1_000_000).then_some((unproven, Group::Unproven));
        let shares = self.resources.shares();
        let beyond = self.resources.handshakes().beyond_share(capacity, shares);
        let prefixes = beyond
            .into_iter()
            .map(|(prefix, excess)| (excess, Group::Prefix(prefix)));
        prefixes
            .chain(unproven)
            .max_by_key(|(excess, _)| *excess)
            .map_or_else(|| table.slowest_group(), |(_, group)| group)
    }
}

impl Table {
    /// The host prefix with most handshakes that have taken longer than those of ordinary clients.
    fn slowest_group(&self) -> Group {
        let mut slow = HashMap::new();
        // From the oldest on.
        let is_slow = |pending: &&Pending| pending.begun.elapsed() >= SLOW;
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
    /// Waits for `handshake`, unless this one gives way to others before.
    ///
    /// # Errors
    /// [`Evicted`].
    pub(super) async fn run<T>(mut self, handshake: impl Future<Output = T>) -> Result<T, Evicted> {
        tokio::select! {
            biased;
            result = handshake => Ok(result),
            // An error means that it is no longer in the table, which only `drop` does besides.
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

/// A transport whose handshakes give way to others. Remote addresses of its connections are proven
/// when they come in.
pub(super) struct Limited {
    inner: Boxed<Output>,
    gater: ConnectionGater,
}

type Output = (PeerId, StreamMuxerBox);
type Upgrade = BoxFuture<'static, io::Result<Output>>;

impl Limited {
    pub(super) fn new(inner: Boxed<Output>, gater: ConnectionGater) -> Self {
        Self { inner, gater }
    }
}

impl Transport for Limited {
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
    use crate::{
        metrics::ConnectionLimits,
        relay::Limits,
        resources::{ResourceLimits, Shares},
    };

    fn table(pending: u32) -> PendingHandshakes {
        let limits = ResourceLimits {
            connections: ConnectionLimits { active: 1, pending },
            ..ResourceLimits::new(None, None, &Limits::default())
        };
        PendingHandshakes::new(Resources::new(limits, Shares::default()))
    }

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    /// Whether it gave way.
    fn is_evicted(handshake: PendingHandshake) -> bool {
        handshake.run(pending::<()>()).now_or_never().is_some()
    }

    #[test]
    fn silent_handshakes_of_one_address_take_only_each_others_places() {
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
    fn packets_in_the_name_of_an_address_take_nothing_from_it() {
        let table = table(16);
        let client = table.begin(ip("192.0.2.1"));
        let forged: Vec<_> = (0..40).map(|_| table.begin(None)).collect();
        let proven = table.begin(ip("192.0.2.1"));
        assert!(!is_evicted(client) && !is_evicted(proven));
        assert!(is_evicted(forged.into_iter().next().unwrap()));
    }

    #[test]
    fn the_oldest_gives_way_when_no_prefix_is_beyond_its_share() {
        let table = table(4);
        let all: Vec<_> = (0..5)
            .map(|n| table.begin(ip(&format!("192.0.{n}.1"))))
            .collect();
        let evicted: Vec<_> = all.into_iter().map(is_evicted).collect();
        assert_eq!(evicted, [true, false, false, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_handshakes_of_one_address_give_way_before_others() {
        let table = table(16);
        let first = table.begin(ip("198.51.100.1"));
        let silent = [(); 2].map(|()| table.begin(ip("192.0.2.1")));
        tokio::time::advance(SLOW).await;
        let others: Vec<_> = (0..14)
            .map(|n| table.begin(ip(&format!("203.0.{n}.1"))))
            .collect();
        assert!(!is_evicted(first), "each of the others has fewer");
        let evicted = silent.map(is_evicted);
        assert_eq!(evicted, [true, false]);
        assert!(others.into_iter().all(|other| !is_evicted(other)));
    }

    #[test]
    fn a_handshake_that_ends_gives_its_result() {
        let table = table(1);
        let handshake = table.begin(None);
        assert_eq!(handshake.run(ready(7)).now_or_never(), Some(Ok(7)));
        assert_eq!(table.resources.handshakes().total(), 0);
    }
}
