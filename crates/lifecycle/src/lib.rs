//! Lifecycle of the process: its phase, its tasks, and the tokens that stop them.
//!
//! ```text
//! Starting ──► Ready ──► Draining ──► Stopped
//!         drain token ┘            └ shutdown token
//! ```
//!
//! The *drain* token starts a graceful drain: open circuits may finish. The *shutdown* token ends
//! everything that is left. A task that panics cancels the drain token as well, and the process
//! then exits with an error.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Timing of the graceful drain, from the first signal to the exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainConfig {
    /// How long everything keeps working, so that DNS and load balancers can drop this relay.
    pub delay: Duration,
    /// Period over which the disconnections of idle peers are spread; at most `timeout`.
    pub window: Duration,
    /// How long open circuits may take to end.
    pub timeout: Duration,
}

impl DrainConfig {
    /// The default timeout if circuits may last `longest` (`None`: unlimited): a minute more, so that
    /// no circuit within its limit is cut; if they are unlimited, an hour and a minute.
    pub fn default_timeout(longest: Option<Duration>) -> Duration {
        const UNLIMITED: Duration = Duration::from_secs(60 * 60);
        longest
            .unwrap_or(UNLIMITED)
            .saturating_add(Duration::from_secs(60))
    }
}

/// Phase of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all listen addresses are known yet.
    Starting,
    /// Serves normally.
    Ready,
    /// Drains: ends as soon as possible without cutting circuits.
    Draining {
        /// Until then the relay serves normally, so that load balancers and directories can drop it
        /// first.
        serves_until: Instant,
        /// Circuits that are still open then are cut.
        deadline: Instant,
    },
    /// Closes its connections and ends.
    Stopped,
}

impl Phase {
    /// Names of all phases, in order.
    pub const NAMES: [&str; 4] = ["starting", "ready", "draining", "stopped"];

    /// A short, stable name for logs, metrics and the admin endpoints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining { .. } => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// The phase, the tokens and all tasks of the process. Clones share their state.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: Arc<watch::Sender<Phase>>,
    tracker: TaskTracker,
    drain: CancellationToken,
    shutdown: CancellationToken,
    failed: Arc<AtomicBool>,
    /// Whether a stop was requested, as opposed to a drain after a failure.
    stop_requested: Arc<AtomicBool>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Starting)),
            tracker: TaskTracker::new(),
            drain: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            failed: Arc::default(),
            stop_requested: Arc::default(),
        }
    }
}

impl Lifecycle {
    /// Creates a lifecycle in the phase `Starting`, without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Sets the phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Spawns `future` as a task. `name` is logged if it panics.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let lifecycle = self.clone();
        self.tracker.spawn(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                tracing::error!(
                    task = name,
                    "a task panicked: the relay drains and ends with exit code 1"
                );
                lifecycle.fail();
            }
        });
    }

    /// Spawns `future` as a task that is dropped when the shutdown token is cancelled.
    pub fn spawn_cancellable(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.spawn(name, async move {
            let _ = shutdown.run_until_cancelled(future).await;
        });
    }

    /// Records a fatal failure: the relay drains, and the process exits with an error.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.drain.cancel();
    }

    /// Cancelled when the drain starts.
    pub fn drain_token(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when all tasks have to end.
    pub fn shutdown_token(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Whether a fatal failure has occurred.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Requests a stop: the first call starts the drain, the second one the shutdown. A drain after
    /// a failure does not count as the first call, because a supervisor that stops a failed relay
    /// still wants it to drain.
    pub fn stop(&self) {
        if self.stop_requested.swap(true, Ordering::AcqRel) {
            self.shutdown.cancel();
        }
        self.drain.cancel();
    }

    /// Waits until all tasks have ended. New tasks may still be spawned.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_of_a_task_starts_the_drain_and_is_recorded() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("ordinary", async {});
        lifecycle.spawn("panicking", async { panic!("intended by this test") });
        lifecycle.wait().await;
        assert!(lifecycle.has_failed());
        assert!(lifecycle.drain_token().is_cancelled());
        // The stop of a supervisor after a failure does not cut the drain short.
        lifecycle.stop();
        assert!(!lifecycle.shutdown_token().is_cancelled());
    }

    #[test]
    fn second_stop_request_shuts_down() {
        let lifecycle = Lifecycle::new();
        lifecycle.stop();
        assert!(
            lifecycle.drain_token().is_cancelled() && !lifecycle.shutdown_token().is_cancelled()
        );
        lifecycle.stop();
        assert!(lifecycle.shutdown_token().is_cancelled());
    }
}
