//! The timers of libp2p, on those of tokio: a patch of `futures-timer`.
//!
//! libp2p starts a timer for each stream that is opened, and cancels it as soon as both sides have
//! agreed on a protocol. The published `futures-timer`, which works with any runtime, has a thread
//! for its timers, and wakes it for each timer that is started or cancelled. That was a tenth of the
//! cost of a circuit. Here, a timer is an entry in the timer wheel of the runtime.
//!
//! This crate has the interface of `futures-timer` 3 and replaces it for all dependencies of the
//! relay (`[patch.crates-io]` in the relay's `Cargo.toml`).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Longer than the lifetime of any process.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A future that is ready when its time has passed.
///
/// # Panics
/// When it is polled outside of a tokio runtime with timers.
pub struct Delay {
    due: Instant,
    /// Created at the first poll.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Delay {
    /// Ready `after` from now.
    #[must_use]
    pub fn new(after: Duration) -> Self {
        Self {
            due: due(after),
            sleep: None,
        }
    }

    /// Ready `after` from now instead, also if it was ready.
    pub fn reset(&mut self, after: Duration) {
        self.due = due(after);
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(self.due);
        }
    }
}

fn due(after: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(after).unwrap_or(now + FAR)
}

impl Future for Delay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { due, sleep } = self.get_mut();
        let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(*due)));
        sleep.as_mut().poll(cx)
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delay").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_in_time() {
        let began = Instant::now();
        let delay = Delay::new(SECOND);
        tokio::time::sleep(SECOND / 2).await;
        delay.await;
        assert_eq!(began.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_set_anew() {
        let began = Instant::now();
        let mut delay = Delay::new(SECOND);
        (&mut delay).await;
        delay.reset(2 * SECOND);
        (&mut delay).await;
        assert_eq!(began.elapsed(), 3 * SECOND);
        // This one was not polled yet.
        let mut delay = Delay::new(SECOND);
        delay.reset(SECOND * 2);
        delay.await;
        assert_eq!(began.elapsed(), 5 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn for_ever_is_for_ever() {
        let day = Duration::from_secs(24 * 60 * 60);
        let delay = Delay::new(Duration::MAX);
        assert!(tokio::time::timeout(day, delay).await.is_err());
    }

    #[test]
    fn it_goes_anywhere() {
        fn is_sendable<T: Send + Sync + Unpin>(_: &T) {}
        is_sendable(&Delay::new(SECOND));
    }
}
