//! Whether the remote is still there: one that has been silent for a minute is asked, by a ping of
//! yamux.
//!
//! Why not the `ping` of libp2p. It wants a stream and its negotiation, and timers of a thread of
//! their own; and it asks peers that have just spoken. With thousands of idle peers the relay would
//! do little but put threads to sleep and wake them. Here all connections whose minute ends within
//! the same second are looked at together, and a ping is one small frame.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Error, frame::Header, session::Session};
use crate::transport::timer_coalescing;

/// How often a connection is looked at: once a minute, with the slack.
const PERIOD: Duration = Duration::from_secs(59);
/// How much later that may be.
const COALESCING_INTERVAL: Duration = Duration::from_secs(1);

/// So many looks in a row may be in vain; the next one ends the connection, which is three to four
/// minutes after the last word. The answer may have to wait for all that is on its way to a slow
/// remote.
const MAX_IN_VAIN: u32 = 2;

/// What was heard of the remote.
#[derive(Debug, Default)]
pub(super) struct Keepalive {
    /// Whether it said anything of its own accord since the last look.
    spoke: bool,
    /// How many pings it has not answered.
    unanswered: u32,
    /// How many looks have found that it takes nothing, though something waits for it. Who speaks
    /// and never reads is of no use to anybody either.
    stuck: u32,
    /// The bytes that had been written at the last look.
    written: u64,
}

impl Keepalive {
    /// The remote spoke, be it a part of a frame.
    pub(super) fn spoke(&mut self) {
        self.spoke = true;
    }

    /// The remote replied to a ping.
    pub(super) fn answered(&mut self) {
        self.unanswered = 0;
    }
}

impl Session {
    /// Asks a remote that was silent since the last look.
    pub(super) fn look(&mut self) -> Result<(), Error> {
        let Keepalive {
            spoke,
            unanswered,
            stuck,
            written,
        } = &mut self.keepalive;
        let before = std::mem::replace(written, self.send_queue.written());
        let is_stuck = self.send_queue.pending() > 0 && before == *written;
        *stuck = if is_stuck { *stuck + 1 } else { 0 };
        if *stuck > MAX_IN_VAIN {
            return Err(Error::Silent);
        }
        if std::mem::take(spoke) {
            *unanswered = 0;
        } else if *unanswered >= MAX_IN_VAIN {
            return Err(Error::Silent);
        } else {
            *unanswered += 1;
            let value = *unanswered;
            self.send_queue.push(Header::ping(value), &[]);
        }
        Ok(())
    }
}

/// When to look at a connection.
#[derive(Debug, Default)]
pub(super) struct Looks(Option<Pin<Box<Sleep>>>);

impl Looks {
    /// Waits for the next look.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(next())));
        ready!(sleep.as_mut().poll(cx));
        sleep.as_mut().reset(next());
        Poll::Ready(())
    }
}

fn next() -> Instant {
    timer_coalescing::round_up((Instant::now() + PERIOD).into_std(), COALESCING_INTERVAL).into()
}
