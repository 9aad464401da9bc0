//! The life of the process: its phase, the tasks that it runs, and how they are told to stop.
//!
//! ```text
//! Starting ──► Ready ──► Draining ──► Stopped
//!                 soft ───┘      └─── hard
//! ```
//!
//! The *soft* token starts the drain: whatever is open may finish. The *hard* token ends
//! everything that is left. A task that panics starts the same drain, and the process ends with an
//! error.

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

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(5),
            window: Duration::from_secs(30),
            timeout: Duration::from_secs(5 * 60),
        }
    }
}

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all addresses are known yet.
    Starting,
    /// It serves everybody.
    Ready,
    /// It ends as soon as it can without harm.
    Draining {
        /// Until then it serves as before, so that everybody who sends it peers can stop first.
        serves_until: Instant,
        /// What is still open then is cut.
        deadline: Instant,
    },
    /// It closes its connections and ends.
    Stopped,
}

impl Phase {
    /// The words of all phases, in their order.
    pub const WORDS: [&str; 4] = ["starting", "ready", "draining", "stopped"];

    /// A short, stable word for logs, metrics and the operator's endpoints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining { .. } => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// The phase, the tokens, and every task of the process. Clones share everything.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: Arc<watch::Sender<Phase>>,
    tracker: TaskTracker,
    soft: CancellationToken,
    hard: CancellationToken,
    faulty: Arc<AtomicBool>,
    /// Somebody asked for the end, which a fault is not.
    asked: Arc<AtomicBool>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Starting)),
            tracker: TaskTracker::new(),
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            faulty: Arc::default(),
            asked: Arc::default(),
        }
    }
}

impl Lifecycle {
    /// At the start, with no tasks and neither token cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the process is now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The process has entered `phase`.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Runs `future` as a task. `name` is for the log, should it panic.
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

    /// Runs `future` as a task until it ends, or until every task is to end.
    pub fn spawn_until_end(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let end = self.hard.clone();
        self.spawn(name, async move {
            let _ = end.run_until_cancelled(future).await;
        });
    }

    /// Something that the relay cannot do without is gone: it drains, and ends with an error.
    pub fn fail(&self) {
        self.faulty.store(true, Ordering::Release);
        self.soft.cancel();
    }

    /// Cancelled when the relay is to drain.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when every task is to end now.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Whether something has failed that the relay cannot do without.
    pub fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Acquire)
    }

    /// The process was asked to stop: the first time to drain, the second time to end now. A
    /// fault that made it drain before does not count: whoever asks because of it wants the drain.
    pub fn stop(&self) {
        if self.asked.swap(true, Ordering::AcqRel) {
            self.hard.cancel();
        }
        self.soft.cancel();
    }

    /// Waits until every task has ended. New ones can still be spawned meanwhile.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_starts_the_drain_and_leaves_a_mark() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("calm", async {});
        lifecycle.spawn("faulty", async { panic!("a fault of this test") });
        lifecycle.wait().await;
        assert!(lifecycle.is_faulty());
        assert!(lifecycle.soft().is_cancelled());
        // A supervisor that stops the relay for it does not cut the drain short.
        lifecycle.stop();
        assert!(!lifecycle.hard().is_cancelled());
    }

    #[test]
    fn the_second_stop_is_the_hard_one() {
        let lifecycle = Lifecycle::new();
        lifecycle.stop();
        assert!(lifecycle.soft().is_cancelled() && !lifecycle.hard().is_cancelled());
        lifecycle.stop();
        assert!(lifecycle.hard().is_cancelled());
    }
}
