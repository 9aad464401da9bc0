//! What the relay may use of its machine or container: memory and file descriptors.
//!
//! What it may use is found once, at the start, and a [`ResourceLimits`] made of it. How much memory is in use
//! is looked at from time to time; descriptors are counted one by one. Near the watermarks
//! the [`ConnectionGater`](crate::transport::ConnectionGater) turns newcomers away, and everybody who is there goes on. When
//! those who are there take more and more nevertheless, connections without a circuit are
//! [closed](crate::node), before the system ends the whole relay.

#[cfg(target_os = "linux")]
mod cgroup;
mod limits;
mod memory;
mod prefix;
mod process;
mod receive_buffer;
mod usage;
mod watermarks;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tracing::{info, warn};

pub use self::{
    limits::ResourceLimits,
    memory::{ConnectionMemory, GUARANTEED_BYTES, Relief},
    prefix::{MAX_SCOPES, Prefix, Share, Shares},
    process::{open_descriptors, resident_bytes},
    receive_buffer::ReceiveBuffered,
    usage::{Exceeded, Usage, excess, scarcity},
};
use self::{memory::Accounts, watermarks::Watermarks};
use crate::{config::MemoryLimit, relay::Limits};

/// How often the use of memory is looked at. What may come in meanwhile is bounded by the handshakes
/// that may be under way.
const INTERVAL: Duration = Duration::from_millis(250);

/// After so many looks in a row that found memory over its watermarks, connections without a circuit are
/// closed as well, though others hold more.
const RELIEF_LOOKS: u32 = 8;

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
    /// How many looks in a row have found memory over its watermarks.
    looks_over: AtomicU32,
    /// Notified at a look that finds memory over its watermarks, if relief of connections that hold much
    /// is not possible or not enough.
    over: Notify,
    /// A permit for each connection that may take a descriptor.
    sockets: Arc<Semaphore>,
    /// A permit for each of those that may be a WebSocket.
    websockets: Arc<Semaphore>,
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
    _websocket: Option<OwnedSemaphorePermit>,
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
        Self::new(limits, shares)
    }

    /// Without an end, and with the largest windows.
    pub fn unlimited() -> Self {
        let limits = ResourceLimits::new(None, None, &Limits::default());
        Self::new(limits, Shares::default())
    }

    /// What `limits` says.
    pub(crate) fn new(limits: ResourceLimits, shares: Shares) -> Self {
        let permits = |number: Option<u64>| {
            let number = number.and_then(|number| usize::try_from(number).ok());
            let number = number.unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)))
        };
        let (sockets, websockets) = (permits(limits.sockets), permits(limits.websockets));
        Self(Arc::new(Shared {
            watermarks: limits.memory.map(Watermarks::of),
            limits,
            accounts: Accounts::new(limits.buffered, shares.clone()),
            shares,
            under_pressure: AtomicBool::new(false),
            sockets,
            websockets,
            looks_over: AtomicU32::new(0),
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
            Ok(permit) => Ok(Descriptor {
                _permit: permit,
                _websocket: None,
            }),
            Err(_) => Err(Exhausted::FileDescriptors),
        }
    }

    /// Takes one more descriptor for a WebSocket, which needs memory for a whole frame as soon as
    /// its peer says how long that will be.
    ///
    /// # Errors
    /// The same, and when there is no memory for one more frame.
    pub fn websocket_descriptor(&self) -> Result<Descriptor, Exhausted> {
        let permit = Arc::clone(&self.0.websockets).try_acquire_owned();
        let permit = permit.map_err(|_| Exhausted::Memory)?;
        Ok(Descriptor {
            _websocket: Some(permit),
            ..self.descriptor()?
        })
    }

    /// Ready when so much memory is in use that who is there has to go: to be asked again and again.
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

    /// Requests relief of the connections that hold most, until they hold `excess` bytes together.
    /// Gives how many those are.
    pub(crate) fn relieve_connections(&self, excess: u64) -> usize {
        self.0.accounts.relieve(excess)
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
            if let Some(used) = resident_bytes() {
                self.update(used);
            }
            sleep(INTERVAL).await;
        }
    }

    /// So many bytes are resident.
    pub(crate) fn update(&self, used: u64) {
        let Some(watermarks) = self.0.watermarks else {
            return;
        };
        let was_tight = self.under_pressure();
        let under_pressure = watermarks.is_near(used, was_tight);
        self.0
            .under_pressure
            .store(under_pressure, Ordering::Relaxed);
        if watermarks.is_over(used) {
            let relieved = self.relieve_connections(watermarks.excess(used));
            let looks = self.0.looks_over.fetch_add(1, Ordering::Relaxed);
            if relieved > 0 {
                warn!(
                    used,
                    connections = relieved,
                    "memory has run out: streams are reset"
                );
            }
            if relieved == 0 || looks >= RELIEF_LOOKS {
                self.0.over.notify_one();
            }
        } else {
            self.0.looks_over.store(0, Ordering::Relaxed);
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

    #[tokio::test]
    async fn connections_that_hold_much_are_relieved_before_idle_ones_are_closed() {
        use futures::FutureExt as _;

        let resources = of(1 << 30, 1000);
        let over = 1 << 30;
        resources.update(over);
        assert!(resources.over().now_or_never().is_some(), "nothing is held");
        let memory = ConnectionMemory::new(resources.clone());
        memory.charge(1 << 20);
        resources.update(0);
        resources.update(over);
        let relief = std::future::poll_fn(|cx| memory.poll_relief(cx));
        assert_eq!(relief.now_or_never(), Some(Relief::ResetStreams));
        assert!(resources.over().now_or_never().is_none());
        for _ in 0..RELIEF_LOOKS {
            resources.update(over);
        }
        assert!(
            resources.over().now_or_never().is_some(),
            "it is not enough"
        );
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
