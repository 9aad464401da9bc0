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
mod limits;
mod memory;
mod prefix;
mod process;
mod usage;
mod watermarks;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tracing::{info, warn};

pub use self::{
    buffer_charge::BufferCharge,
    limits::ResourceLimits,
    memory::{ConnectionMemory, GUARANTEED_BYTES, Relief},
    prefix::{MAX_SCOPES, Prefix, Share, Shares},
    process::{open_descriptors, resident_bytes},
    usage::{Exceeded, Usage, excess, scarcity},
};
use self::{
    memory::{Accounts, LEAST_RELIEF_BYTES, Relieved},
    process::SocketMemory,
    watermarks::Watermarks,
};
use crate::{config::MemoryLimit, relay::Limits};

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
    /// Bytes that were in use at the last look.
    used: AtomicU64,
    /// Notified at each look that finds memory short.
    over: Notify,
    /// A permit for each connection that may take a descriptor.
    sockets: Arc<Semaphore>,
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
}

impl Exhausted {
    /// For logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::FileDescriptors => "file_descriptors",
        }
    }
}

/// A descriptor that a connection holds, until it is dropped.
#[derive(Debug)]
pub struct Descriptor {
    _permit: OwnedSemaphorePermit,
}

impl Resources {
    /// What this process may use of memory, if it is not told, and of descriptors, for as many
    /// circuits as `limits` allows.
    pub fn of_process(memory: MemoryLimit, shares: Shares, limits: &Limits) -> Self {
        let memory = match memory {
            MemoryLimit::Auto => process::memory_limit(),
            MemoryLimit::Bytes(bytes) => Some(bytes),
            MemoryLimit::Unlimited => None,
        };
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
        let permits = |number: Option<u64>| {
            let number = number.and_then(|number| usize::try_from(number).ok());
            let number = number.unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)))
        };
        let sockets = permits(limits.sockets);
        Self(Arc::new(Shared {
            watermarks: limits.memory.map(Watermarks::of),
            limits,
            accounts: Accounts::new(limits.buffered, shares.clone()),
            shares,
            under_pressure: AtomicBool::new(false),
            used: AtomicU64::new(0),
            sockets,
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

    /// Whether there is memory for another connection.
    ///
    /// # Errors
    /// Near the watermarks.
    pub fn check_memory(&self) -> Result<(), Exhausted> {
        if self.under_pressure() {
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
        let permit = Arc::clone(&self.0.sockets).try_acquire_owned();
        match permit {
            Ok(permit) => Ok(Descriptor { _permit: permit }),
            Err(_) => Err(Exhausted::FileDescriptors),
        }
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
            if let Some(resident) = resident_bytes() {
                let sockets = self.0.socket_memory.as_ref().and_then(SocketMemory::bytes);
                self.update(resident.saturating_add(sockets.unwrap_or(0)));
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
        if under_pressure {
            self.0.over.notify_one();
        }
        let limit = self.0.limits.memory;
        if under_pressure && !was_tight {
            warn!(used, limit, "memory is short: newcomers are refused");
        } else if was_tight && !under_pressure {
            info!(used, limit, "there is memory again: newcomers are let in");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory: u64, descriptors: u64) -> Resources {
        let limits = ResourceLimits::new(Some(memory), Some(descriptors), &Limits::default());
        Resources::new(limits, Shares::default())
    }

    #[test]
    fn newcomers_wait_for_memory() {
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
            assert_eq!(resources.check_memory().is_err(), under_pressure, "{used}");
        }
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
        let used = resident_bytes().unwrap();
        let all = process::memory_limit().unwrap();
        assert!(0 < used && used < all, "{used} {all}");
        assert!(process::descriptor_limit().is_none_or(|limit| limit > 16));
    }
}
