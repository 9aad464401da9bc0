//! The resource manager: memory and file descriptors that the relay may use, and their use by
//! connections and address prefixes.
//!
//! The limits are determined once, at the start ([`ResourceLimits`]). Memory use is polled;
//! descriptors are counted one by one. Above the high watermark, the connection gater of the
//! transports rejects new connections. Buffers are charged to an account of their connection. When
//! memory runs out nevertheless, the connections with the largest buffers reset their streams or are
//! closed, before the system kills the process.

mod buffer_charge;
#[cfg(target_os = "linux")]
mod cgroup;
mod connection_deny_reason;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod map_shrink;
mod memory;
mod memory_limit;
mod multiaddress;
mod prefix;
mod process;
mod report;
mod resource_limits;
pub mod size;
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
    connection_deny_reason::ConnectionDenyReason,
    memory::{ConnectionMemory, GUARANTEED_BYTES, Relief, Relieved},
    memory_limit::{MemoryLimit, ParseMemoryLimitError},
    multiaddress::ip_of,
    prefix::{MAX_SCOPES, Prefix, Share, Shares},
    process::{open_descriptors, used_bytes},
    report::{Resource, ResourceUse, is_private},
    resource_limits::{CircuitLimits, ConnectionLimits, ResourceLimits},
    usage::{BeyondShare, Exceeded, Usage, excess, scarcity_threshold},
};
use self::{
    memory::{Accounts, MIN_RELIEF_BYTES},
    process::SocketMemory,
    watermarks::Watermarks,
};

/// Time between two readings of the memory in use: the longest, and the shortest, which applies near
/// the high watermark.
const MAX_INTERVAL: Duration = Duration::from_millis(250);
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The same under memory pressure, when peers can still use the credit that they have.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(25);

/// Assumed growth of the memory in use, in bytes per millisecond: what an attacker can fill over a
/// fast network.
const MAX_GROWTH: u64 = 200 * 1024;

/// Limits of the process and their current use. Clones share their state.
#[derive(Clone, Debug)]
pub struct Resources(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: ResourceLimits,
    watermarks: Option<Watermarks>,
    /// Shares of each resource that apply to address prefixes under scarcity.
    shares: Shares,
    /// Accounts of the bytes in buffers of connections.
    accounts: Accounts,
    /// Whether memory is under pressure.
    under_pressure: AtomicBool,
    /// [Heavy prefixes](Accounts::heavy_prefixes) since the memory pressure began. They would fill
    /// the memory again.
    heavy_prefixes: Mutex<HashSet<Prefix>>,
    /// Bytes in use at the last poll.
    used: AtomicU64,
    /// Notified by each poll that finds memory pressure.
    memory_pressure: Notify,
    /// Pending handshakes.
    handshakes: Mutex<Usage>,
    /// Established connections, except evicted ones.
    connections: Mutex<Usage>,
    /// Connections with a file descriptor.
    sockets: Mutex<Usage>,
    /// Notified when a connection is refused because all descriptors are in use.
    sockets_full: Notify,
    /// Source of the memory of sockets, if it counts for the limit.
    socket_memory: Option<SocketMemory>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Memory is under pressure.
    #[error("memory is under pressure")]
    Memory,
    /// All descriptors for connections are in use.
    #[error("all file descriptors are in use")]
    FileDescriptors,
    /// Descriptors are scarce, and an address prefix uses its share.
    #[error("file descriptors are scarce, and the address prefix uses its share")]
    FileDescriptorShare,
}

impl Exhausted {
    /// A short, stable name for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Memory => ConnectionDenyReason::Memory,
            Self::FileDescriptors => ConnectionDenyReason::FileDescriptors,
            Self::FileDescriptorShare => ConnectionDenyReason::FileDescriptorShare,
        }
        .as_str()
    }
}

/// The file descriptor of a connection. Dropping it frees the descriptor.
#[derive(Debug)]
pub struct Descriptor {
    resources: Resources,
    /// Address for which it counts, if known.
    ip: Option<IpAddr>,
}

impl Descriptor {
    /// Counts the descriptor for `ip`, which has been proven to be the peer's address.
    ///
    /// # Errors
    /// If descriptors are scarce and a prefix of the address uses its share.
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
    /// Determines the limits of this process. `memory` is the configured limit, `circuits` the number
    /// of circuits to provide for, and `shares` those of address prefixes.
    pub fn of_process(memory: MemoryLimit, circuits: &CircuitLimits, shares: Shares) -> Self {
        let memory = match memory {
            MemoryLimit::Auto => process::memory_limit(),
            MemoryLimit::Bytes(bytes) => Some(bytes),
            MemoryLimit::Unlimited => None,
        };
        let limits = ResourceLimits::new(memory, process::descriptor_limit(), circuits);
        Self::with(limits, shares, process::socket_memory())
    }

    /// Without limits, and with the largest windows.
    pub fn unlimited() -> Self {
        let limits = ResourceLimits::new(None, None, &CircuitLimits::default());
        Self::new(limits, Shares::default())
    }

    /// With these limits.
    pub fn new(limits: ResourceLimits, shares: Shares) -> Self {
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
            heavy_prefixes: Mutex::default(),
            used: AtomicU64::new(0),
            socket_memory,
            memory_pressure: Notify::new(),
        }))
    }

    /// The limits, and the bounds that follow from them.
    pub fn limits(&self) -> &ResourceLimits {
        &self.0.limits
    }

    /// Whether memory is under pressure.
    pub fn under_pressure(&self) -> bool {
        self.0.under_pressure.load(Ordering::Relaxed)
    }

    /// Checks whether there is memory for another connection, from `ip` if known.
    ///
    /// Under pressure, connections of address prefixes that hold more than their share of all buffers,
    /// or more than half of it if there are none, are rejected, because relieving these ends the
    /// pressure. If there is no such prefix, or the critical watermark is reached, all connections are rejected.
    ///
    /// # Errors
    /// If the connection has to be rejected.
    pub fn check_memory(&self, ip: Option<IpAddr>) -> Result<(), Exhausted> {
        if !self.under_pressure() {
            return Ok(());
        }
        let heavy = lock(&self.0.heavy_prefixes);
        let is_heavy = |ip: IpAddr| Prefix::scopes(ip).any(|prefix| heavy.contains(&prefix));
        if self.has_run_out() || heavy.is_empty() || ip.is_none_or(is_heavy) {
            Err(Exhausted::Memory)
        } else {
            Ok(())
        }
    }

    /// Takes a descriptor for a connection.
    ///
    /// # Errors
    /// If all descriptors for connections are in use.
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

    /// Completes when a connection has been refused because all descriptors are in use. Call it
    /// repeatedly.
    pub async fn sockets_full(&self) {
        self.0.sockets_full.notified().await;
    }

    /// Prefixes that use most of their share of the descriptors, and more than one.
    pub fn heaviest_users_of_sockets(&self) -> BeyondShare {
        let capacity = self.0.limits.sockets.unwrap_or(u64::MAX);
        self.sockets().heavier_than(None, capacity, self.shares())
    }

    fn sockets(&self) -> MutexGuard<'_, Usage> {
        lock(&self.0.sockets)
    }

    /// Pending handshakes by address prefix.
    pub fn handshakes(&self) -> MutexGuard<'_, Usage> {
        lock(&self.0.handshakes)
    }

    /// Established connections by address prefix.
    pub fn connections(&self) -> MutexGuard<'_, Usage> {
        lock(&self.0.connections)
    }

    /// Whether neither memory is under pressure nor connections or their descriptors are
    /// [scarce](scarcity_threshold), so that idle connections need not be closed.
    pub fn has_room(&self) -> bool {
        let limits = self.limits();
        let has_room = |usage: &Usage, capacity: Option<u64>| {
            capacity.is_none_or(|capacity| usage.total() < scarcity_threshold(capacity))
        };
        !self.under_pressure()
            && has_room(&self.connections(), Some(limits.connections.active.into()))
            && has_room(&self.sockets(), limits.sockets)
    }

    /// Use of each resource of connections.
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

    /// Completes after each poll that finds memory pressure.
    pub async fn memory_pressure(&self) {
        self.0.memory_pressure.notified().await;
    }

    /// Shares of each resource that apply to address prefixes under scarcity.
    pub fn shares(&self) -> &Shares {
        &self.0.shares
    }

    /// Bytes in buffers of all connections.
    pub fn buffered_bytes(&self) -> u64 {
        self.0.accounts.held()
    }

    fn accounts(&self) -> &Accounts {
        &self.0.accounts
    }

    /// Requests relief of the connections that hold most, until they hold `excess` bytes in total:
    /// of connections beyond their guarantee, or if there are none, of those that hold at least
    /// 8 KiB.
    pub fn relieve_connections(&self, excess: u64) -> Relieved {
        let accounts = &self.0.accounts;
        let relieved = accounts.relieve(excess, GUARANTEED_BYTES + 1, false);
        if relieved.connections > 0 {
            return relieved;
        }
        accounts.relieve(excess, MIN_RELIEF_BYTES, false)
    }

    /// Requests relief of the connections that hold most, until they hold `excess` bytes in total,
    /// of address prefixes that hold more than their share.
    pub fn relieve_heavy_prefixes(&self, excess: u64) -> Relieved {
        self.0.accounts.relieve(excess, MIN_RELIEF_BYTES, true)
    }

    /// Whether the last poll reached the critical watermark.
    pub fn has_run_out(&self) -> bool {
        let used = self.0.used.load(Ordering::Relaxed);
        let watermarks = self.0.watermarks.as_ref();
        watermarks.is_some_and(|watermarks| watermarks.is_critical(used))
    }

    /// Bytes beyond the low watermark at the last poll.
    pub fn excess(&self) -> u64 {
        let used = self.0.used.load(Ordering::Relaxed);
        let watermarks = self.0.watermarks.as_ref();
        watermarks.map_or(0, |watermarks| used.saturating_sub(watermarks.low()))
    }

    /// Logs the limits.
    pub fn log(&self) {
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

    /// Polls the use of memory. Runs until the relay stops, if memory is limited.
    pub async fn monitor_memory(self) {
        while self.0.watermarks.is_some() {
            // Reading may fail when the system has no free file descriptors.
            if let Some(used) = used_bytes() {
                let sockets = self.0.socket_memory.as_ref().and_then(SocketMemory::bytes);
                self.update(used.saturating_add(sockets.unwrap_or(0)));
            }
            sleep(self.next_reading()).await;
        }
    }

    /// Time until the memory in use is to be read again. Within it, memory cannot grow to the high
    /// watermark.
    fn next_reading(&self) -> Duration {
        let used = self.0.used.load(Ordering::Relaxed);
        let room = self
            .0
            .watermarks
            .map_or(0, |watermarks| watermarks.room(used));
        if self.under_pressure() {
            PRESSURE_INTERVAL
        } else {
            Duration::from_millis(room / MAX_GROWTH).clamp(MIN_INTERVAL, MAX_INTERVAL)
        }
    }

    /// Updates the bytes in use by the process and its sockets.
    pub fn update(&self, used: u64) {
        let Some(watermarks) = self.0.watermarks else {
            return;
        };
        self.0.used.store(used, Ordering::Relaxed);
        let was_under_pressure = self.under_pressure();
        let under_pressure = watermarks.under_pressure(used, was_under_pressure);
        self.0
            .under_pressure
            .store(under_pressure, Ordering::Relaxed);
        let mut heavy = lock(&self.0.heavy_prefixes);
        if under_pressure {
            // Before they are relieved, because they would fill the memory again.
            heavy.extend(self.0.accounts.heavy_prefixes());
            self.0.memory_pressure.notify_one();
        } else {
            *heavy = HashSet::new();
        }
        drop(heavy);
        let limit = self.0.limits.memory;
        if under_pressure && !was_under_pressure {
            // Some connections update their accounts only when they are woken.
            self.0.accounts.wake_connections();
            warn!(used, limit, "memory pressure: rejecting new connections");
        } else if was_under_pressure && !under_pressure {
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
        let limits =
            ResourceLimits::new(Some(memory), Some(descriptors), &CircuitLimits::default());
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
        assert!(
            resources.check_memory(other).is_err(),
            "above the critical watermark"
        );
        resources.update(800);
        assert!(resources.check_memory(greedy).is_ok());
        resources.update(900);
        assert!(resources.check_memory(other).is_err(), "nothing is held");
    }

    #[test]
    fn there_is_room_until_memory_connections_or_descriptors_are_scarce() {
        let resources = of(1000, 4);
        assert!(resources.has_room());
        resources.update(900);
        assert!(!resources.has_room());
        resources.update(0);
        assert!(resources.has_room());
        let capacity = u64::from(resources.limits().connections.active);
        for _ in 0..scarcity_threshold(capacity) {
            assert!(resources.has_room());
            resources.connections().add(None);
        }
        assert!(!resources.has_room());
        resources.connections().remove(None);
        assert!(resources.has_room());
        let sockets = resources.limits().sockets.unwrap();
        let threshold = scarcity_threshold(sockets);
        let held: Vec<_> = (0..threshold).map(|_| resources.descriptor()).collect();
        assert!(!resources.has_room());
        drop(held);
        assert!(resources.has_room());
    }

    #[test]
    fn dropped_descriptors_are_free_again() {
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
    fn unlimited_resources_are_never_exhausted() {
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
