//! Keepalive: a connection from which nothing was received for a minute is pinged at yamux level.
//!
//! libp2p's `ping` protocol is not used for this. It opens and negotiates a stream, has its own timer
//! thread, and also pings peers that have just sent data. With thousands of idle peers the relay
//! would do little but context switches. Here a ping is a single frame of 12 bytes, and all
//! connections whose minute ends within the same second are checked in one wakeup.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::Error;
use crate::timer_coalescing;

/// The interval between two checks: with the coalescing, 59 to 60 seconds.
const PERIOD: Duration = Duration::from_secs(59);
const COALESCING_INTERVAL: Duration = Duration::from_secs(1);

/// The number of consecutive pings that may stay unanswered, and of consecutive checks at which no
/// queued byte was written. The next check closes the connection, which is three to four minutes
/// after the last sign of life. One missed ping is not enough: the reply may queue behind
/// everything that is in flight to a slow remote.
const MAX_MISSED_PINGS: u32 = 2;

/// The liveness state of the remote.
#[derive(Debug, Default)]
pub(super) struct Keepalive {
    /// Whether anything other than a reply to a ping was received since the last check.
    has_received: bool,
    /// Consecutive pings without a reply.
    missed_pings: u32,
    /// Consecutive checks at which data was queued and none was written. A remote that sends but
    /// never reads would otherwise keep its connection open indefinitely.
    stalled_checks: u32,
    /// The number of bytes that were written to the socket until the last check.
    written: u64,
}

impl Keepalive {
    /// A frame, or a part of its payload, was received.
    pub(super) fn on_receive(&mut self) {
        self.has_received = true;
    }

    /// A reply to a ping was received. Any reply counts, also one that answers an earlier ping.
    pub(super) fn on_pong(&mut self) {
        self.missed_pings = 0;
    }

    /// Checks the liveness of the remote. `written` is the number of bytes that were ever written to
    /// the socket, and `has_pending` whether more are queued. Returns the value of the ping to send,
    /// if nothing was received since the last check.
    ///
    /// # Errors
    /// [`Error::Unresponsive`] after too many missed pings or stalled checks.
    pub(super) fn check(&mut self, written: u64, has_pending: bool) -> Result<Option<u32>, Error> {
        let before = std::mem::replace(&mut self.written, written);
        let is_stalled = has_pending && before == written;
        self.stalled_checks = if is_stalled {
            self.stalled_checks + 1
        } else {
            0
        };
        if self.stalled_checks > MAX_MISSED_PINGS {
            return Err(Error::Unresponsive);
        }
        if std::mem::take(&mut self.has_received) {
            self.missed_pings = 0;
            Ok(None)
        } else if self.missed_pings >= MAX_MISSED_PINGS {
            Err(Error::Unresponsive)
        } else {
            // Counted as missed until the reply arrives.
            self.missed_pings += 1;
            Ok(Some(self.missed_pings))
        }
    }
}

/// The timer of the checks.
#[derive(Debug, Default)]
pub(super) struct KeepaliveTimer(Option<Pin<Box<Sleep>>>);

impl KeepaliveTimer {
    /// Ready when the next check is due.
    pub(super) fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(next_check())));
        ready!(sleep.as_mut().poll(cx));
        sleep.as_mut().reset(next_check());
        Poll::Ready(())
    }
}

fn next_check() -> Instant {
    timer_coalescing::round_up((Instant::now() + PERIOD).into_std(), COALESCING_INTERVAL).into()
}
