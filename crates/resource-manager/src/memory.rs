//! Bytes in buffers of connections: received but not read, queued but not sent, and incomplete
//! frames.
//!
//! Each connection has one account. Its muxer and its security channel charge the account when
//! bytes enter a buffer, and release them when the bytes leave it. All accounts together are
//! limited to a part of the memory, of which each address prefix has a [share](super::Shares). When
//! the process runs out of memory nevertheless, the connections that hold most are requested to
//! reset their streams, and are closed if that is not enough.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

use super::{
    Resources, lock,
    prefix::{Prefix, Shares},
    report::{Resource, ResourceUse},
    usage::{little, scarcity_threshold, with_reserve},
};
use crate::map_shrink::ShrinkIfSparse as _;

/// Bytes that each connection may hold even beyond the total limit: the longest frame that common
/// implementations send.
pub const GUARANTEED_BYTES: u64 = 64 * 1024;

/// Bytes that a connection has to hold to be worth relieving: more than an idle connection of an
/// ordinary client holds.
pub(super) const MIN_RELIEF_BYTES: u64 = 8 * 1024;

/// The account of one connection. Clones share it; dropping the last one releases its bytes.
#[derive(Clone, Debug)]
pub struct ConnectionMemory(Arc<Account>);

/// Request to a connection to free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relief {
    /// Reset the streams for which the connection holds bytes.
    ResetStreams,
    /// Close the connection.
    Close,
}

/// Connections of which relief was requested, and the bytes that they held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relieved {
    /// Number of connections.
    pub connections: usize,
    /// Bytes that they hold.
    pub bytes: u64,
}

#[derive(Debug)]
struct Account {
    resources: Resources,
    id: u64,
    state: Mutex<State>,
    /// The pending request: 0 for none, or a level of [`Relief`].
    requested: AtomicU8,
    /// Wakes the connection's task when relief is requested.
    task: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    held: u64,
    /// Counters of the prefixes of the connection's address.
    scopes: Vec<Scope>,
    /// Number of requests since the connection last held at most its guarantee.
    requests: u8,
}

#[derive(Clone, Debug)]
struct Scope {
    prefix: Prefix,
    counters: Arc<Counters>,
}

/// Bytes that connections hold in total.
#[derive(Debug, Default)]
struct Counters {
    held: AtomicU64,
    /// Bytes beyond the guarantee of each connection. Only these are limited, so that connections
    /// within their guarantee use nothing of the limit, however many there are.
    pooled: AtomicU64,
}

/// Bytes of one connection beyond its guarantee.
fn pooled(held: u64) -> u64 {
    held.saturating_sub(GUARANTEED_BYTES)
}

impl Counters {
    /// Updates the counters after a connection has changed from `before` to `after` bytes.
    fn change(&self, before: u64, after: u64) {
        for (counter, before, after) in [
            (&self.held, before, after),
            (&self.pooled, pooled(before), pooled(after)),
        ] {
            match after.checked_sub(before) {
                Some(0) => {}
                Some(more) => {
                    counter.fetch_add(more, Ordering::Relaxed);
                }
                None => {
                    counter.fetch_sub(before - after, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The accounts of all connections.
#[derive(Debug)]
pub(super) struct Accounts {
    /// Limit of all accounts in bytes; `None` is unlimited.
    limit: Option<u64>,
    shares: Shares,
    counters: Counters,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    next: u64,
    accounts: HashMap<u64, Weak<Account>>,
    prefixes: HashMap<Prefix, Arc<Counters>>,
}

impl Accounts {
    pub(super) fn new(limit: Option<u64>, shares: Shares) -> Self {
        Self {
            limit,
            shares,
            counters: Counters::default(),
            registry: Mutex::default(),
        }
    }

    /// Bytes that all connections hold.
    pub(super) fn held(&self) -> u64 {
        self.counters.held.load(Ordering::Relaxed)
    }

    /// Bytes in use, and the host prefix that holds most of them.
    pub(super) fn report(&self) -> ResourceUse {
        let registry = self.registry();
        let hosts = registry
            .prefixes
            .iter()
            .filter(|(prefix, _)| prefix.is_host());
        let largest = hosts
            .map(|(prefix, counters)| (*prefix, counters.held.load(Ordering::Relaxed)))
            .max_by_key(|(prefix, bytes)| (*bytes, Reverse(*prefix)));
        ResourceUse {
            resource: Resource::Buffers,
            used: self.held(),
            limit: self.limit,
            largest,
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    /// Whether a connection of these prefixes may hold `more` bytes beyond its guarantee. Under
    /// scarcity, each prefix is limited to its share. Several prefixes within their shares can use up
    /// the limit, so there is a [reserve](with_reserve) beyond it for prefixes that hold little.
    fn has_room(&self, scopes: &[Scope], more: u64) -> bool {
        let Some(limit) = self.limit else { return true };
        let with_more = |counters: &Counters| {
            let pooled = counters.pooled.load(Ordering::Relaxed);
            pooled.saturating_add(more)
        };
        let then = with_more(&self.counters);
        let holds_at_most = |most: fn(u64) -> u64| {
            scopes.iter().all(|scope| {
                let share = self.shares.of(scope.prefix).part_of(limit);
                with_more(&scope.counters) <= most(share)
            })
        };
        then <= scarcity_threshold(limit)
            || (then <= limit && holds_at_most(|share| share))
            || (!scopes.is_empty() && then <= with_reserve(limit) && holds_at_most(little))
    }

    /// Wakes the tasks of all connections that poll for relief.
    pub(super) fn wake_connections(&self) {
        let accounts: Vec<_> = self.registry().accounts.values().cloned().collect();
        for account in accounts.iter().filter_map(Weak::upgrade) {
            account.task.wake();
        }
    }

    /// Prefixes that give way under memory pressure: those that hold more than their share; or, if
    /// there are none, those that hold more than half of it, as several of them can fill the memory
    /// together. There are few of them, because shares are large fractions.
    pub(super) fn heavy_prefixes(&self) -> HashSet<Prefix> {
        let Some(limit) = self.limit else {
            return HashSet::new();
        };
        let registry = self.registry();
        let heavier_than = |part: u64| -> HashSet<Prefix> {
            let is_heavy = |(prefix, counters): &(&Prefix, &Arc<Counters>)| {
                let share = self.shares.of(**prefix).part_of(limit);
                counters.held.load(Ordering::Relaxed) > share / part
            };
            let heavy = registry.prefixes.iter().filter(is_heavy);
            heavy.map(|(prefix, _)| *prefix).collect()
        };
        let beyond_share = heavier_than(1);
        if beyond_share.is_empty() {
            heavier_than(2)
        } else {
            beyond_share
        }
    }

    /// Requests relief of the connections that hold most, and at least `least` bytes each, until
    /// they hold `excess` bytes in total. With `only_heavy`, only of connections of
    /// [heavy prefixes](Self::heavy_prefixes).
    pub(super) fn relieve(&self, excess: u64, least: u64, only_heavy: bool) -> Relieved {
        let heavy = only_heavy.then(|| self.heavy_prefixes());
        let accounts: Vec<_> = self.registry().accounts.values().cloned().collect();
        let mut candidates: Vec<_> = accounts
            .iter()
            .filter_map(Weak::upgrade)
            .filter_map(|account| {
                let state = account.state();
                let held = state.held;
                let is_heavy = heavy.as_ref().is_none_or(|heavy| {
                    let mut scopes = state.scopes.iter();
                    scopes.any(|scope| heavy.contains(&scope.prefix))
                });
                drop(state);
                (held >= least && is_heavy).then_some((held, account))
            })
            .collect();
        candidates.sort_unstable_by_key(|(held, _)| Reverse(*held));
        let mut relieved = Relieved::default();
        for (held, account) in candidates {
            if relieved.bytes >= excess {
                break;
            }
            relieved.bytes += held;
            relieved.connections += 1;
            account.request_relief();
        }
        relieved
    }
}

impl ConnectionMemory {
    /// Opens an account for a connection.
    pub fn new(resources: Resources) -> Self {
        let id = {
            let mut registry = resources.accounts().registry();
            registry.next += 1;
            registry.next
        };
        let account = Arc::new(Account {
            resources,
            id,
            state: Mutex::default(),
            requested: AtomicU8::new(0),
            task: AtomicWaker::new(),
        });
        let weak = Arc::downgrade(&account);
        let accounts = account.resources.accounts();
        accounts.registry().accounts.insert(id, weak);
        Self(account)
    }

    /// Counts the account for the prefixes of `ip`, which has been proven to be the peer's address.
    pub fn attribute_to(&self, ip: IpAddr) {
        let mut state = self.0.state();
        self.0.leave_scopes(&mut state);
        let mut registry = self.0.resources.accounts().registry();
        state.scopes = Prefix::scopes(ip)
            .map(|prefix| {
                let counters = Arc::clone(registry.prefixes.entry(prefix).or_default());
                counters.change(0, state.held);
                Scope { prefix, counters }
            })
            .collect();
    }

    /// Bytes that the connection holds.
    pub fn held(&self) -> u64 {
        self.0.state().held
    }

    /// Whether the connection may hold `more` further bytes, if its own limit is `most`.
    pub fn has_room(&self, more: u64, most: u64) -> bool {
        let state = self.0.state();
        let then = state.held.saturating_add(more);
        let accounts = self.0.resources.accounts();
        let more = pooled(then).saturating_sub(pooled(state.held));
        then <= most && (more == 0 || accounts.has_room(&state.scopes, more))
    }

    /// Charges bytes that have entered a buffer.
    pub fn charge(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut state = self.0.state();
        let held = state.held.saturating_add(bytes);
        self.0.hold(&mut state, held);
    }

    /// Releases bytes that have left a buffer or were discarded; at most as many as were charged.
    pub fn release(&self, bytes: u64) {
        if bytes > 0 {
            self.0.release(&mut self.0.state(), bytes);
        }
    }

    /// Polls for a request to free memory. The task is woken when there is one.
    pub fn poll_relief(&self, cx: &mut Context<'_>) -> Poll<Relief> {
        self.0.task.register(cx.waker());
        match self.0.requested.swap(0, Ordering::AcqRel) {
            0 => Poll::Pending,
            1 => Poll::Ready(Relief::ResetStreams),
            _ => Poll::Ready(Relief::Close),
        }
    }
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn release(&self, state: &mut State, bytes: u64) {
        // Never below 0: the totals stay exact even if a caller releases too much.
        let held = state.held.saturating_sub(bytes);
        self.hold(state, held);
        if state.held <= GUARANTEED_BYTES {
            state.requests = 0;
        }
    }

    /// Sets the bytes that the connection holds.
    fn hold(&self, state: &mut State, held: u64) {
        self.resources.accounts().counters.change(state.held, held);
        for scope in &state.scopes {
            scope.counters.change(state.held, held);
        }
        state.held = held;
    }

    fn request_relief(&self) {
        let level = {
            let mut state = self.state();
            state.requests = state.requests.saturating_add(1).min(2);
            state.requests
        };
        self.requested.store(level, Ordering::Release);
        self.task.wake();
    }

    /// Removes the account from the counters of its prefixes.
    fn leave_scopes(&self, state: &mut State) {
        let held = state.held;
        let mut registry = self.resources.accounts().registry();
        for Scope { prefix, counters } in state.scopes.drain(..) {
            counters.change(held, 0);
            drop(counters);
            // Only the table has a reference: there is no connection of this prefix left.
            let is_unused = |counters: &Arc<Counters>| Arc::strong_count(counters) == 1;
            if registry.prefixes.get(&prefix).is_some_and(is_unused) {
                registry.prefixes.remove(&prefix);
            }
        }
        registry.prefixes.shrink_if_sparse();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.state());
        let held = state.held;
        self.release(&mut state, held);
        self.leave_scopes(&mut state);
        let mut registry = self.resources.accounts().registry();
        registry.accounts.remove(&self.id);
        registry.accounts.shrink_if_sparse();
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;
    use crate::{CircuitLimits, ResourceLimits};

    const ALL: u64 = 8 * 1024 * 1024;

    fn resources() -> Resources {
        let limits = ResourceLimits::new(None, None, &CircuitLimits::default());
        Resources::new(
            ResourceLimits {
                buffered: Some(ALL),
                ..limits
            },
            Shares::default(),
        )
    }

    fn connection(resources: &Resources, ip: &str) -> ConnectionMemory {
        let memory = ConnectionMemory::new(resources.clone());
        memory.attribute_to(ip.parse().unwrap());
        memory
    }

    #[test]
    fn shares_apply_only_under_scarcity() {
        let resources = resources();
        let greedy = connection(&resources, "192.0.2.1");
        let three_quarters = GUARANTEED_BYTES + ALL / 4 * 3;
        assert!(greedy.has_room(three_quarters, ALL));
        assert!(
            !greedy.has_room(three_quarters, ALL / 2),
            "limit of the connection"
        );
        greedy.charge(three_quarters);
        assert!(!greedy.has_room(1, ALL));
        let neighbour = connection(&resources, "192.0.2.2");
        assert!(!neighbour.has_room(ALL / 16, ALL), "the /24 is full");
        assert!(neighbour.has_room(GUARANTEED_BYTES, ALL));
        let other = connection(&resources, "198.51.100.1");
        let share = GUARANTEED_BYTES + ALL / 8;
        assert!(other.has_room(share, ALL));
        assert!(!other.has_room(share + 1, ALL));
        other.charge(share);
        drop(greedy);
        assert_eq!(resources.buffered_bytes(), share);
        assert!(neighbour.has_room(ALL / 2, ALL));
    }

    #[test]
    fn full_limit_leaves_a_reserve_for_prefixes_that_hold_little() {
        let resources = resources();
        let share = ALL / 8;
        let greedy: Vec<_> = (1..=8)
            .map(|n| connection(&resources, &format!("192.{n}.2.1")))
            .collect();
        for memory in &greedy {
            assert!(memory.has_room(GUARANTEED_BYTES + share, ALL));
            memory.charge(GUARANTEED_BYTES + share);
        }
        assert!(!greedy[0].has_room(1, ALL));
        let other = connection(&resources, "198.51.100.1");
        let little = GUARANTEED_BYTES + share / 8;
        assert!(other.has_room(little, ALL));
        assert!(!other.has_room(little + 1, ALL));
        // The reserve has an end, too.
        let others: Vec<_> = (1..=8)
            .map(|n| connection(&resources, &format!("198.{n}.100.1")))
            .collect();
        for memory in &others {
            assert!(memory.has_room(little, ALL));
            memory.charge(little);
        }
        assert!(!other.has_room(little, ALL));
        assert!(other.has_room(GUARANTEED_BYTES, ALL));
    }

    #[test]
    fn connections_within_their_guarantee_do_not_use_the_limit() {
        let resources = resources();
        let many: Vec<_> = (0..2 * ALL / GUARANTEED_BYTES)
            .map(|_| connection(&resources, "192.0.2.1"))
            .collect();
        for memory in &many {
            assert!(memory.has_room(GUARANTEED_BYTES, ALL));
            memory.charge(GUARANTEED_BYTES);
        }
        let other = connection(&resources, "198.51.100.1");
        assert!(other.has_room(ALL / 2, ALL));
    }

    #[test]
    fn largest_connections_are_relieved_first_and_closed_next() {
        let resources = resources();
        let [large, small, modest] =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| connection(&resources, ip));
        large.charge(ALL / 2);
        small.charge(ALL / 4);
        modest.charge(GUARANTEED_BYTES);
        let relieve = |excess| resources.relieve_connections(excess).connections;
        let mut cx = Context::from_waker(noop_waker_ref());
        assert_eq!(relieve(1), 1);
        assert_eq!(
            large.poll_relief(&mut cx),
            Poll::Ready(Relief::ResetStreams)
        );
        assert_eq!(large.poll_relief(&mut cx), Poll::Pending);
        assert_eq!(small.poll_relief(&mut cx), Poll::Pending);
        assert_eq!(relieve(ALL), 2, "not the modest one");
        assert_eq!(large.poll_relief(&mut cx), Poll::Ready(Relief::Close));
        assert_eq!(
            small.poll_relief(&mut cx),
            Poll::Ready(Relief::ResetStreams)
        );
        assert_eq!(modest.poll_relief(&mut cx), Poll::Pending);
        large.release(ALL / 2 - GUARANTEED_BYTES);
        large.charge(ALL / 2);
        assert_eq!(relieve(1), 1);
        assert_eq!(
            large.poll_relief(&mut cx),
            Poll::Ready(Relief::ResetStreams)
        );
    }

    #[test]
    fn connections_of_prefixes_beyond_their_share_are_relieved_first() {
        let resources = resources();
        let ordinary = connection(&resources, "192.0.2.1");
        ordinary.charge(ALL / 16);
        let many: Vec<_> = (0..20)
            .map(|_| connection(&resources, "198.51.100.1"))
            .collect();
        let relieve = || resources.relieve_heavy_prefixes(ALL).connections;
        for memory in &many {
            memory.charge(ALL / 16 / 20);
        }
        assert_eq!(relieve(), 0, "no prefix is beyond half of its share");
        for memory in &many {
            memory.charge(ALL / 16 / 20);
        }
        assert_eq!(relieve(), 20, "none is beyond its share");
        ordinary.charge(100);
        for memory in &many {
            memory.charge(100);
        }
        assert_eq!(relieve(), 20);
        let mut cx = Context::from_waker(noop_waker_ref());
        assert!(ordinary.poll_relief(&mut cx).is_pending());
        assert!(
            many.iter()
                .all(|memory| memory.poll_relief(&mut cx).is_ready())
        );
    }

    #[test]
    fn small_connections_are_relieved_when_none_is_large() {
        let resources = resources();
        let [idle, partial, other] =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| connection(&resources, ip));
        idle.charge(MIN_RELIEF_BYTES - 1);
        partial.charge(GUARANTEED_BYTES);
        other.charge(MIN_RELIEF_BYTES);
        let relieved = resources.relieve_connections(GUARANTEED_BYTES);
        assert_eq!(
            (relieved.connections, relieved.bytes),
            (1, GUARANTEED_BYTES)
        );
        let mut cx = Context::from_waker(noop_waker_ref());
        assert!(partial.poll_relief(&mut cx).is_ready());
        assert_eq!(resources.relieve_connections(ALL).connections, 2);
        assert!(idle.poll_relief(&mut cx).is_pending());
    }

    #[test]
    fn dropped_accounts_leave_no_state() {
        let resources = resources();
        for number in 0..100_u8 {
            let memory = connection(&resources, &format!("192.0.{number}.1"));
            memory.charge(1000);
            memory.attribute_to("2001:db8::1".parse().unwrap());
            memory.release(2000);
            memory.charge(10);
        }
        assert_eq!(resources.buffered_bytes(), 0);
        let registry = resources.accounts().registry();
        assert!(registry.accounts.is_empty() && registry.prefixes.is_empty());
    }

    #[test]
    fn without_a_total_limit_the_limit_of_the_connection_applies() {
        let memory = ConnectionMemory::new(Resources::unlimited());
        memory.charge(1 << 40);
        assert!(memory.has_room(1, u64::MAX));
        assert!(!memory.has_room(1, 1 << 40));
    }
}
