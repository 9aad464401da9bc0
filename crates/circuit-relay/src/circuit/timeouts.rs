//! Duration limit and inactivity timeouts of circuits.

use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use super::{Bounds, CircuitLimit, EndReason};

/// Time of the last byte of a circuit. The clock is read only if there is an idle timeout.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Milliseconds since `opened`.
    last: Option<AtomicU64>,
}

impl Activity {
    pub(super) fn new(idle_timeout: Option<Duration>) -> Self {
        Self {
            opened: Instant::now(),
            last: idle_timeout.map(|_| AtomicU64::new(0)),
        }
    }

    /// Records that bytes have moved.
    pub(super) fn record(&self) {
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

/// Completes when the circuit reaches its duration limit.
pub(super) async fn elapsed_duration(limit: CircuitLimit) {
    match limit.duration {
        Some(duration) => sleep(duration).await,
        None => pending().await,
    }
}

/// Completes when the circuit has been unused or idle for too long. A single timer waits for the
/// next possible instant; moving bytes does not reset it.
pub(super) async fn elapsed(bounds: &Bounds<'_>, activity: &Activity) -> EndReason {
    loop {
        let Some(due) = next_timeout(bounds, activity) else {
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

/// The next instant to check, and the reason that may apply then.
struct Timeout {
    at: Instant,
    end: Option<EndReason>,
}

fn next_timeout(bounds: &Bounds<'_>, activity: &Activity) -> Option<Timeout> {
    let is_used = bounds.state.is_used();
    let unused = bounds.unused_timeout.filter(|_| !is_used);
    let unused = unused.and_then(|timeout| {
        let at = activity.opened.checked_add(timeout)?;
        let end = Some(EndReason::Unused);
        Some(Timeout { at, end })
    });
    let idle = bounds.idle_timeout.and_then(|timeout| {
        if is_used {
            let at = activity.last()?.checked_add(timeout)?;
            let end = Some(EndReason::Idle);
            Some(Timeout { at, end })
        } else {
            // The circuit may be used by then.
            let at = Instant::now().checked_add(timeout)?;
            Some(Timeout { at, end: None })
        }
    });
    [unused, idle]
        .into_iter()
        .flatten()
        .min_by_key(|due| due.at)
}

/// Whether the circuit still has to end for this reason.
fn is_due(bounds: &Bounds<'_>, end: EndReason, activity: &Activity) -> bool {
    let due = next_timeout(bounds, activity);
    due.is_some_and(|due| due.end == Some(end) && due.at <= Instant::now())
}
