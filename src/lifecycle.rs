//! The life of the process: the tasks that it runs, and how it is told to stop.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Where every task of the relay is spawned, so that the end of the process can wait for all of
/// them, and so that a task that panics is noticed. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    soft: CancellationToken,
    hard: CancellationToken,
    faulty: Arc<AtomicBool>,
}

impl Tasks {
    /// No tasks; neither token is cancelled.
    pub fn new() -> Self {
        let soft = CancellationToken::new();
        Self {
            hard: CancellationToken::new(),
            soft,
            ..Self::default()
        }
    }

    /// Runs `future` as a task. `name` is for the log, should it panic.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let (soft, faulty) = (self.soft.clone(), Arc::clone(&self.faulty));
        self.tracker.spawn(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                tracing::error!(
                    task = name,
                    "a task panicked; the relay drains and exits with 1"
                );
                faulty.store(true, Ordering::Release);
                soft.cancel();
            }
        });
    }

    /// Cancelled when the relay is to drain.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when every task is to end now.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Whether a task has panicked.
    pub fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Acquire)
    }

    /// Waits until every task has ended. New ones can still be spawned meanwhile.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
