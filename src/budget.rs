//! What the relay may use of its machine or container: memory and file descriptors.
//!
//! What it may use is found once, at the start, and a [`Plan`] made of it. How much memory is in use
//! is looked at from time to time; descriptors are counted one by one. Near the edge
//! the [`Gate`](crate::transport::Gate) turns newcomers away, and everybody who is there goes on. When
//! those who are there take more and more nevertheless, connections without a circuit are
//! [closed](crate::node), before the system ends the whole relay.

#[cfg(target_os = "linux")]
mod cgroup;
mod edge;
mod plan;
mod process;
mod unread;

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

use self::edge::Edge;
pub use self::{
    plan::Plan,
    process::{open_descriptors, resident_bytes},
    unread::Unread,
};
use crate::{config::MemoryLimit, relay::Limits};

/// How often the use of memory is looked at. What may come in meanwhile is bounded by the handshakes
/// that may be under way.
const INTERVAL: Duration = Duration::from_millis(250);

/// What the relay may use, and how much of it is in use. Clones share everything.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    plan: Plan,
    edge: Option<Edge>,
    /// Bytes that connections over yamux hold for those who do not read.
    unread: AtomicU64,
    /// Whether memory is near its edge.
    is_tight: AtomicBool,
    /// Told at each look that finds memory over its edge.
    over: Notify,
    /// A permit for each connection that may take a descriptor.
    sockets: Arc<Semaphore>,
    /// A permit for each of those that may be a WebSocket.
    websockets: Arc<Semaphore>,
}

/// Why there is no room for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Memory is near its edge.
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

impl Budget {
    /// What this process may use of memory, if it is not told, and of descriptors, for as many
    /// circuits as `limits` allows.
    pub fn of_process(memory: MemoryLimit, limits: &Limits) -> Self {
        let memory = match memory {
            MemoryLimit::Auto => process::memory_limit(),
            MemoryLimit::Bytes(bytes) => Some(bytes),
            MemoryLimit::Unlimited => None,
        };
        Self::new(Plan::new(memory, process::descriptor_limit(), limits))
    }

    /// Without an end, and with the largest windows.
    pub fn unlimited() -> Self {
        Self::new(Plan::new(None, None, &Limits::default()))
    }

    /// What `plan` says.
    pub(crate) fn new(plan: Plan) -> Self {
        let permits = |number: Option<u64>| {
            let number = number.and_then(|number| usize::try_from(number).ok());
            let number = number.unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)))
        };
        let (sockets, websockets) = (permits(plan.sockets), permits(plan.websockets));
        Self(Arc::new(Shared {
            edge: plan.memory.map(Edge::of),
            plan,
            unread: AtomicU64::new(0),
            is_tight: AtomicBool::new(false),
            sockets,
            websockets,
            over: Notify::new(),
        }))
    }

    /// What may be used, and the bounds that follow.
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// Whether memory is so near its edge that there should be nothing new.
    pub fn is_tight(&self) -> bool {
        self.0.is_tight.load(Ordering::Relaxed)
    }

    /// Whether there is memory for another connection.
    ///
    /// # Errors
    /// Near the edge.
    pub fn check_memory(&self) -> Result<(), Exhausted> {
        if self.is_tight() {
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

    /// Whether all connections together may hold so many bytes more that nobody reads.
    fn has_room_for_unread(&self, more: usize) -> bool {
        let held = || self.0.unread.load(Ordering::Relaxed);
        let most = self.plan().unread;
        most.is_none_or(|most| held().saturating_add(more as u64) <= most)
    }

    fn hold_unread(&self, bytes: usize) {
        // Nobody asks otherwise.
        if self.plan().unread.is_some() {
            self.0.unread.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    fn release_unread(&self, bytes: usize) {
        if self.plan().unread.is_some() {
            self.0.unread.fetch_sub(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Logs what may be used, and what follows.
    pub(crate) fn tell(&self) {
        let plan = self.plan();
        info!(
            memory_bytes = plan.memory,
            file_descriptors = plan.descriptors,
            connections = plan.connections.active,
            handshakes = plan.connections.pending,
            sockets = plan.sockets,
            stream_window_bytes = plan.stream_window,
            connection_window_bytes = plan.connection_window,
            "budget"
        );
    }

    /// Looks at the use of memory, again and again. Runs until the relay stops, if memory has a limit.
    pub(crate) async fn watch(self) {
        while self.0.edge.is_some() {
            // The system may be short of files for a moment.
            if let Some(used) = resident_bytes() {
                self.note(used);
            }
            sleep(INTERVAL).await;
        }
    }

    /// So many bytes are resident.
    pub(crate) fn note(&self, used: u64) {
        let Some(edge) = self.0.edge else { return };
        let was_tight = self.is_tight();
        let is_tight = edge.is_near(used, was_tight);
        self.0.is_tight.store(is_tight, Ordering::Relaxed);
        if edge.is_over(used) {
            self.0.over.notify_one();
        }
        let limit = self.0.plan.memory;
        if is_tight && !was_tight {
            warn!(used, limit, "memory is short: newcomers are refused");
        } else if was_tight && !is_tight {
            info!(used, limit, "there is memory again: newcomers are let in");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory: u64, descriptors: u64) -> Budget {
        let plan = Plan::new(Some(memory), Some(descriptors), &Limits::default());
        Budget::new(plan)
    }

    #[test]
    fn newcomers_wait_for_memory() {
        let budget = of(1000, 1000);
        for (used, is_tight) in [
            (899, false),
            (900, true),
            (851, true),
            (849, false),
            (899, false),
        ] {
            budget.note(used);
            assert_eq!(budget.is_tight(), is_tight, "{used}");
            assert_eq!(budget.check_memory().is_err(), is_tight, "{used}");
        }
    }

    #[test]
    fn descriptors_come_back() {
        let budget = of(1000, 4);
        let first = budget.descriptor().unwrap();
        let _second = budget.descriptor().unwrap();
        assert_eq!(budget.descriptor().err(), Some(Exhausted::FileDescriptors));
        drop(first);
        budget.descriptor().unwrap();
    }

    #[test]
    fn what_is_unlimited_never_ends() {
        let budget = Budget::unlimited();
        budget.note(u64::MAX);
        assert!(!budget.is_tight());
        let many: Vec<_> = (0..100_000).map(|_| budget.descriptor()).collect();
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
