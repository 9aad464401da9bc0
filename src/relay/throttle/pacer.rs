//! When one circuit may read, and how much.

use std::{
    fmt,
    mem::take,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use libp2p::PeerId;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Cause, Throttle,
    line::{Attempt, Line, Place},
};
use crate::relay::now;

/// One circuit's share of the bandwidth.
///
/// It takes one quantum at a time out of each bucket that the circuit belongs to, which both
/// directions use, and another one when that is used up. What nobody needs goes back: when both
/// directions have nothing to read, and when this is dropped.
pub struct Pacer {
    throttle: Arc<Throttle>,
    peers: [PeerId; 2],
    /// That of the circuit, of both peers, of the relay; those that there are.
    buckets: Vec<(Cause, Line)>,
    /// Out of how many of them the next quantum is taken.
    taken: usize,
    /// In line for the next one of them.
    place: Place,
    /// Bytes that may be read now.
    left: u64,
    /// There is none until something has to wait.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether a direction goes on reading by itself.
    is_in_use: bool,
    back_is_first: bool,
}

impl fmt::Debug for Pacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacer")
            .field("left", &self.left)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl Pacer {
    pub(super) fn new(
        throttle: Arc<Throttle>,
        peers: [PeerId; 2],
        buckets: Vec<(Cause, Line)>,
    ) -> Self {
        Self {
            throttle,
            peers,
            buckets,
            left: 0,
            taken: 0,
            place: Place::default(),
            timer: None,
            is_in_use: false,
            back_is_first: false,
        }
    }

    /// How many bytes may be read, at least one; or the circuit's turn has not come, and the task
    /// is woken when it does. To be told what was read by [`Self::spend`].
    pub fn poll_grant(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        if self.left == 0 {
            ready!(self.poll_take(cx));
            self.taken = 0;
            self.left = self.throttle.quantum;
            // Each direction is the first one at times, as that one may take everything.
            self.back_is_first = !self.back_is_first;
        }
        Poll::Ready(self.left)
    }

    /// Takes a quantum out of every bucket.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((cause, line)) = self.buckets.get(self.taken) {
            let is_new = !self.place.is_held();
            let quantum = self.throttle.quantum;
            let attempt = line.take(&mut self.place, quantum, now(), cx.waker());
            if attempt == Attempt::Taken {
                self.taken += 1;
                continue;
            }
            if is_new {
                self.throttle.waited(*cause);
            }
            match attempt {
                Attempt::Early(then) => ready!(self.poll_sleep(then, cx)),
                Attempt::Behind | Attempt::Taken => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    fn poll_sleep(&mut self, until: std::time::Instant, cx: &mut Context<'_>) -> Poll<()> {
        let until = Instant::from_std(until);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    /// So many bytes of the grant were read.
    pub fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Whether the direction to the source is to be polled before the other one.
    pub fn back_is_first(&self) -> bool {
        self.back_is_first
    }

    /// A direction lets others have their turn, and will go on at once.
    pub fn keep(&mut self) {
        self.is_in_use = true;
    }

    /// Both directions were polled: what is left goes back, unless one of them goes on.
    pub fn settle(&mut self) {
        if !take(&mut self.is_in_use) {
            let left = take(&mut self.left);
            self.give_back(left);
        }
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            for (_, line) in &self.buckets {
                line.give_back(bytes);
            }
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.give_back(self.left);
        for (_, line) in self.buckets.iter().take(self.taken) {
            line.give_back(self.throttle.quantum);
        }
        if let Some((_, line)) = self.buckets.get(self.taken) {
            line.leave(&mut self.place);
        }
        self.throttle.leave(self.peers);
    }
}
