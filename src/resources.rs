//! What the relay may use of its machine or container: memory and file descriptors.
//!
//! What it may use is found once, at the start, and a [`ResourceLimits`] made of it. How much memory is in use
//! is looked at from time to time; descriptors are counted one by one. Near the watermarks
//! the [`ConnectionGater`](crate::transport::ConnectionGater) refuses new connections. What connections hold in
//! buffers is charged to an account each. When memory runs out nevertheless, the connections that hold
//! most lose streams or are [closed](crate::node), before the system ends the whole relay.

mod buffer_charge;
#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod limits;
mod memory;
mod memory_limit;
mod prefix;
mod process;
mod report;
mod usage;
mod watermarks;

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tracing::{info, warn};

pub use self::{
    buffer_charge::BufferCharge,
    limits::ResourceLimits,
    memory::{ConnectionMemory, GUARANTEED_BYTES, Relief},
    memory_limit::{MemoryLimit, ParseMemoryLimitError},
    prefix::{MAX_SCOPES, Prefix, Share, Shares},
    process::{open_descriptors, used_bytes},
    report::{Resource, ResourceUse, is_private},
    usage::{BeyondShare, Exceeded, Usage, excess, scarcity},
};
use self::{
    memory::{Accounts, LEAST_RELIEF_BYTES, Relieved},
    process::SocketMemory,
    watermarks::Watermarks,
};
use crate::relay::Limits;

/// How often the use of memory is looked at. What may come in meanwhile is bounded by the handshakes
/// that may be under way.
const INTERVAL: Duration = Duration::from_millis(250);

/// What the relay may use, and how much of it is in use. Clones share everything.
#[derive(Clone, Debug)]
pub struct Resources(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: ResourceLimits,
    watermarks: Option<Watermarks>,
    /// Which part of each resource an address prefix may use under scarcity.
    shares: Shares,
    /// The bytes that connections make the relay hold.
    accounts: Accounts,
    /// Whether memory is near its watermarks.
    under_pressure: AtomicBool,
    /// Prefixes that have held more than their share of all buffers since memory is under pressure.
    beyond_share: Mutex<HashSet<Prefix>>,
    /// Bytes that were in use at the last look.
    used: AtomicU64,
    /// Notified at each look that finds memory short.
    over: Notify,
    /// Handshakes that are under way.
    handshakes: Mutex<Usage>,
    /// Established connections, but for those that are closed to make room.
    connections: Mutex<Usage>,
    /// Connections that hold a descriptor.
    sockets: Mutex<Usage>,
    /// Notified when a connection is refused because all descriptors are in use.
    sockets_full: Notify,
    /// Where the system reports the memory of sockets, if it counts for the limit.
    socket_memory: Option<SocketMemory>,
}

/// Why there is no room for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Memory is near its watermarks.
    #[error("memory is short")]
    Memory,
    /// All descriptors for connections are in use.
    #[error("file descriptors are short")]
    FileDescriptors,
    /// Descriptors are scarce, and an address prefix has its share of them.
    #[error("file descriptors are scarce, and the address prefix has its share")]
    FileDescriptorShare,
}

impl Exhausted {
    /// For logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::FileDescriptors => "file_descriptors",
            Self::FileDescriptorShare => "file_descriptor_share",
        }
    }
}

/// A descriptor that a connection holds, until it is dropped.
#[derive(Debug)]
pub struct Descriptor {
    resources: Resources,
    /// Whose it is, if that is known.
    ip: Option<IpAddr>,
}

impl Descriptor {
    /// The connection comes from `ip`, which is proven to be the peer's.
    ///
    /// # Errors
    /// When descriptors are scarce and a prefix of the address has its share of them.
    pub fn attribute_to(&mut self, ip: IpAddr) -> Result<(), Exhausted> {
        let (resources, ip) = (self.resources.clone(), Some(ip));
        let mut sockets = resources.sockets();
        sockets.remove(self.ip);
        let checked = sockets.check(ip, resources.0.limits.sockets, resources.shares());
        if checked.is_ok() {
            self.ip = ip;
        }
        sockets.add(self.ip);
        checked.map_err(|_| Exhausted::FileDescriptorShare)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.resources.sockets().remove(self.ip);
    }
}

impl Resources {
    /// What this process may use of memory, unless it is configured, and of descriptors, for as many
    /// circuits as `limits` allows.
    pub fn of_process(memory: MemoryLimit, limits: &Limits) -> Self {
        let memory = match memory {
            MemoryLimit::Auto => process::memory_limit(),
            MemoryLimit::Bytes(bytes) => Some(bytes),
            MemoryLimit::Unlimited => None,
        };
        let shares = limits.prefix_shares.clone();
        let limits = ResourceLimits::new(memory, process::descriptor_limit(), limits);
        Self::with(limits, shares, process::socket_memory())
    }

    /// Without an end, and with the largest windows.
    pub fn unlimited() -> Self {
        let limits = ResourceLimits::new(None, None, &Limits::default());
        Self::new(limits, Shares::default())
    }

    /// What `limits` says.
    pub(crate) fn new(limits: ResourceLimits, shares: Shares) -> Self {
        Self::with(limits, shares, None)
    }

    fn with(limits: ResourceLimits, shares: Shares, socket_memory: Option<SocketMemory>) -> Self {
        Self(Arc::new(Shared {
            watermarks: limits.memory.map(Watermarks::of),
            limits,
            accounts: Accounts::new(limits.buffered, shares.clone()),
            shares,
            under_pressure: AtomicBool::new(false),
            handshakes: Mutex::default(),
            connections: Mutex::default(),
            sockets: Mutex::default(),
            sockets_full: Notify::new(),
            beyond_share: Mutex::default(),
            used: AtomicU64::new(0),
            socket_memory,
            over: Notify::new(),
        }))
    }

    /// What may be used, and the bounds that follow.
    pub fn limits(&self) -> &ResourceLimits {
        &self.0.limits
    }

    /// Whether memory is so near its watermarks that there should be nothing new.
    pub fn under_pressure(&self) -> bool {
        self.0.under_pressure.load(Ordering::Relaxed)
    }

    /// Whether there is memory for another connection, from `ip` if that is known.
    ///
    /// Under pressure, connections of address prefixes that hold more than their share of all buffers
    /// are rejected, as relief of theirs ends the pressure. If no prefix does, or memory has run out,
    /// all are.
    ///
    /// # Errors
    /// When there is none.
    pub fn check_memory(&self, ip: Option<IpAddr>) -> Result<(), Exhausted> {
        if !self.under_pressure() {
            return Ok(());
        }
        let beyond = lock(&self.0.beyond_share);
        let is_beyond = |ip: IpAddr| Prefix::scopes(ip).any(|prefix| beyond.contains(&prefix));
        if self.has_run_out() || beyond.is_empty() || ip.is_none_or(is_beyond) {
            Err(Exhausted::Memory)
        } else {
            Ok(())
        }
    }

    /// Takes one more descriptor for a connection.
    ///
    /// # Errors
    /// When the only ones that are left are for other things.
    pub fn descriptor(&self) -> Result<Descriptor, Exhausted> {
        let mut sockets = self.sockets();
        if sockets
            .check(None, self.0.limits.sockets, self.shares())
            .is_err()
        {
            self.0.sockets_full.notify_one();
            return Err(Exhausted::FileDescriptors);
        }
        sockets.add(None);
        drop(sockets);
        Ok(Descriptor {
            resources: self.clone(),
            ip: None,
        })
    }

    /// Ready when a connection was refused because all descriptors are in use: to be asked again and
    /// again.
    pub(crate) async fn sockets_full(&self) {
        self.0.sockets_full.notified().await;
    }

    /// The prefixes that hold more descriptors than their share.
    pub(crate) fn sockets_beyond_share(&self) -> BeyondShare {
        let capacity = self.0.limits.sockets.unwrap_or(u64::MAX);
        self.sockets().beyond_share(capacity, self.shares())
    }

    fn sockets(&self) -> MutexGuard<'_, Usage> {
        lock(&self.0.sockets)
    }

    /// Which address prefixes have handshakes under way.
    pub(crate) fn handshakes(&self) -> MutexGuard<'_, Usage> {
        lock(&self.0.handshakes)
    }

    /// Which address prefixes have established connections.
    pub(crate) fn connections(&self) -> MutexGuard<'_, Usage> {
        lock(&self.0.connections)
    }

    /// The use of each resource that connections have.
    pub fn report(&self) -> [ResourceUse; 4] {
        let limits = self.limits();
        [
            ResourceUse::of(
                Resource::Handshakes,
                &self.handshakes(),
                Some(limits.connections.pending.into()),
            ),
            ResourceUse::of(
                Resource::Connections,
                &self.connections(),
                Some(limits.connections.active.into()),
            ),
            ResourceUse::of(Resource::FileDescriptors, &self.sockets(), limits.sockets),
            self.0.accounts.report(),
        ]
    }

    /// Ready after each look that finds memory short.
    pub(crate) async fn over(&self) {
        self.0.over.notified().await;
    }

    /// Which part of each resource an address prefix may use under scarcity.
    pub fn shares(&self) -> &Shares {
        &self.0.shares
    }

    /// Bytes that all connections together hold in buffers.
    pub fn buffered_bytes(&self) -> u64 {
        self.0.accounts.held()
    }

    fn accounts(&self) -> &Accounts {
        &self.0.accounts
    }

    /// Requests relief of the connections that hold most, until they hold `excess` bytes together:
    /// first of those that hold more than their guarantee, and only if there are none, of those that
    /// hold at least [`LEAST_RELIEF_BYTES`].
    pub(crate) fn relieve_connections(&self, excess: u64) -> Relieved {
        let accounts = &self.0.accounts;
        let relieved = accounts.relieve(excess, GUARANTEED_BYTES + 1, false);
        if relieved.connections > 0 {
            return relieved;
        }
        accounts.relieve(excess, LEAST_RELIEF_BYTES, false)
    }

    /// Requests relief of the connections that hold most, until they hold `excess` bytes together, of
    /// address prefixes that hold more than their share.
    pub(crate) fn relieve_beyond_share(&self, excess: u64) -> Relieved {
        self.0.accounts.relieve(excess, LEAST_RELIEF_BYTES, true)
    }

    /// Whether memory has run out, as of the last look.
    pub(crate) fn has_run_out(&self) -> bool {
        let used = self.0.used.load(Ordering::Relaxed);
        let watermarks = self.0.watermarks.as_ref();
        watermarks.is_some_and(|watermarks| watermarks.is_over(used))
    }

    /// Bytes that were in use at the last look beyond the low watermark.
    pub(crate) fn excess(&self) -> u64 {
        let used = self.0.used.load(Ordering::Relaxed);
        let watermarks = self.0.watermarks.as_ref();
        watermarks.map_or(0, |watermarks| used.saturating_sub(watermarks.low()))
    }

    /// Logs what may be used, and what follows.
    pub(crate) fn log(&self) {
        let limits = self.limits();
        info!(
            memory_bytes = limits.memory,
            file_descriptors = limits.descriptors,
            connections = limits.connections.active,
            handshakes = limits.connections.pending,
            sockets = limits.sockets,
            stream_window_bytes = limits.stream_window,
            connection_window_bytes = limits.connection_window,
            "resources"
        );
    }

    /// Looks at the use of memory, again and again. Runs until the relay stops, if memory has a limit.
    pub(crate) async fn watch(self) {
        while self.0.watermarks.is_some() {
            // The system may be short of files for a moment.
            if let Some(used) = used_bytes() {
                let sockets = self.0.socket_memory.as_ref().and_then(SocketMemory::bytes);
                self.update(used.saturating_add(sockets.unwrap_or(0)));
            }
            sleep(INTERVAL).await;
        }
    }

    /// So many bytes are in use, by the process and by its sockets.
    pub(crate) fn update(&self, used: u64) {
        let Some(watermarks) = self.0.watermarks else {
            return;
        };
        self.0.used.store(used, Ordering::Relaxed);
        let was_tight = self.under_pressure();
        let under_pressure = watermarks.is_near(used, was_tight);
        self.0
            .under_pressure
            .store(under_pressure, Ordering::Relaxed);
        let mut beyond_share = lock(&self.0.beyond_share);
        if under_pressure {
            // Before they are relieved: they would fill the memory again.
            beyond_share.extend(self.0.accounts.prefixes_beyond_share());
            self.0.over.notify_one();
        } else {
            *beyond_share = HashSet::new();
        }
        drop(beyond_share);
        let limit = self.0.limits.memory;
        if under_pressure && !was_tight {
            // Some connections bring their accounts up to date only then.
            self.0.accounts.wake_connections();
            warn!(used, limit, "memory pressure: rejecting new connections");
        } else if was_tight && !under_pressure {
            info!(
                used,
                limit, "memory pressure ended: accepting new connections"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory: u64, descriptors: u64) -> Resources {
        let limits = ResourceLimits::new(Some(memory), Some(descriptors), &Limits::default());
        Resources::new(limits, Shares::default())
    }

    #[test]
    fn new_connections_are_rejected_under_memory_pressure() {
        let resources = of(1000, 1000);
        for (used, under_pressure) in [
            (899, false),
            (900, true),
            (851, true),
            (849, false),
            (899, false),
        ] {
            resources.update(used);
            assert_eq!(resources.under_pressure(), under_pressure, "{used}");
            assert_eq!(
                resources.check_memory(None).is_err(),
                under_pressure,
                "{used}"
            );
        }
    }

    #[test]
    fn under_pressure_only_prefixes_beyond_their_share_are_rejected() {
        let resources = of(1000, 1000);
        let [greedy, other] = ["192.0.2.1", "198.51.100.1"].map(|ip| ip.parse().ok());
        let memory = ConnectionMemory::new(resources.clone());
        memory.attribute_to(greedy.unwrap());
        resources.update(900);
        assert!(resources.check_memory(other).is_err(), "all use little");
        memory.charge(100);
        resources.update(900);
        memory.release(100);
        resources.update(900);
        assert!(resources.check_memory(greedy).is_err());
        assert!(resources.check_memory(None).is_err());
        assert!(resources.check_memory(other).is_ok());
        resources.update(950);
        assert!(resources.check_memory(other).is_err(), "it has run out");
        resources.update(800);
        assert!(resources.check_memory(greedy).is_ok());
        resources.update(900);
        assert!(resources.check_memory(other).is_err(), "nothing is held");
    }

    #[test]
    fn descriptors_come_back() {
        let resources = of(1000, 4);
        let first = resources.descriptor().unwrap();
        let _second = resources.descriptor().unwrap();
        assert_eq!(
            resources.descriptor().err(),
            Some(Exhausted::FileDescriptors)
        );
        drop(first);
        resources.descriptor().unwrap();
    }

    #[test]
    fn what_is_unlimited_never_ends() {
        let resources = Resources::unlimited();
        resources.update(u64::MAX);
        assert!(!resources.under_pressure());
        let many: Vec<_> = (0..100_000).map(|_| resources.descriptor()).collect();
        assert!(many.iter().all(Result::is_ok));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_limits() {
        let used = used_bytes().unwrap();
        let all = process::memory_limit().unwrap();
        assert!(0 < used && used < all, "{used} {all}");
        assert!(process::descriptor_limit().is_none_or(|limit| limit > 16));
    }
}
