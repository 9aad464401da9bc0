//! The timeouts of circuits that carry nothing.

use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use super::{Bounds, CircuitLimit, EndReason};

/// The time at which a circuit last carried a byte. The clock is read only where an idle timeout
/// needs it.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Milliseconds since then.
    last: Option<AtomicU64>,
}

impl Activity {
    pub(super) fn new(idle_timeout: Option<Duration>) -> Self {
        Self {
            opened: Instant::now(),
            last: idle_timeout.map(|_| AtomicU64::new(0)),
        }
    }

    /// The circuit has carried bytes.
    pub(super) fn note(&self) {
        if let Some(last) = &self.last {
            let elapsed = u64::try_from(self.opened.elapsed().as_millis());
            last.store(elapsed.unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    fn last(&self) -> Option<Instant> {
        let last = self.last.as_ref()?.load(Ordering::Relaxed);
        self.opened.checked_add(Duration::from_millis(last))
    }
}

/// Waits until the circuit has been open for as long as it may.
pub(super) async fn elapsed_duration(limit: CircuitLimit) {
    match limit.duration {
        Some(duration) => sleep(duration).await,
        None => pending().await,
    }
}

/// Waits until the circuit has been unused or idle for too long. One timer waits for the next
/// instant at which that is possible; bytes do not move it.
pub(super) async fn elapsed(bounds: &Bounds<'_>, activity: &Activity) -> EndReason {
    loop {
        let Some(due) = due(bounds, activity) else {
            return pending().await;
        };
        sleep_until(due.at).await;
        if let Some(end) = due.end
            && is_due(bounds, end, activity)
        {
            return end;
        }
    }
}

/// The instant at which to look again, and what may be due then.
struct Due {
    at: Instant,
    end: Option<EndReason>,
}

fn due(bounds: &Bounds<'_>, activity: &Activity) -> Option<Due> {
    let is_used = bounds.state.is_used();
    let unused = bounds.unused_timeout.filter(|_| !is_used);
    let unused = unused.and_then(|timeout| {
        let at = activity.opened.checked_add(timeout)?;
        let end = Some(EndReason::Unused);
        Some(Due { at, end })
    });
    let idle = bounds.idle_timeout.and_then(|timeout| {
        if is_used {
            let at = activity.last()?.checked_add(timeout)?;
            let end = Some(EndReason::Idle);
            Some(Due { at, end })
        } else {
            // It may be used by then.
            let at = Instant::now().checked_add(timeout)?;
            Some(Due { at, end: None })
        }
    });
    [unused, idle]
        .into_iter()
        .flatten()
        .min_by_key(|due| due.at)
}

/// Whether the circuit is still to end so, after a wait.
fn is_due(bounds: &Bounds<'_>, end: EndReason, activity: &Activity) -> bool {
    let due = due(bounds, activity);
    due.is_some_and(|due| due.end == Some(end) && due.at <= Instant::now())
}
