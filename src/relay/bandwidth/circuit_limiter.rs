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
    BandwidthLimiter, BandwidthScope,
    fair_queue::{Acquire, FairQueue, Ticket},
};
use crate::relay::now;

/// One circuit's share of the bandwidth.
///
/// It takes one quantum at a time out of each bucket that the circuit belongs to, which both
/// directions use, and another one when that is used up. What nobody needs goes back: when both
/// directions have nothing to read, and when this is dropped.
pub struct CircuitLimiter {
    shared: Arc<BandwidthLimiter>,
    peers: [PeerId; 2],
    /// That of the circuit, of both peers, of the relay; those that there are.
    buckets: Vec<(BandwidthScope, FairQueue)>,
    /// Out of how many of them the next quantum is taken.
    acquired: usize,
    /// In line for the next one of them.
    ticket: Ticket,
    /// Bytes that may be read now.
    granted: u64,
    /// There is none until something has to wait.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether a direction goes on reading by itself.
    is_retained: bool,
    to_source_first: bool,
}

impl fmt::Debug for CircuitLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitLimiter")
            .field("granted", &self.granted)
            .field("acquired", &self.acquired)
            .finish_non_exhaustive()
    }
}

impl CircuitLimiter {
    pub(super) fn new(
        shared: Arc<BandwidthLimiter>,
        peers: [PeerId; 2],
        buckets: Vec<(BandwidthScope, FairQueue)>,
    ) -> Self {
        Self {
            shared,
            peers,
            buckets,
            granted: 0,
            acquired: 0,
            ticket: Ticket::default(),
            timer: None,
            is_retained: false,
            to_source_first: false,
        }
    }

    /// How many bytes may be read, at least one; or the circuit's turn has not come, and the task
    /// is woken when it does. To be told what was read by [`Self::spend`].
    pub fn poll_grant(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        if self.granted == 0 {
            ready!(self.poll_acquire_all(cx));
            self.acquired = 0;
            self.granted = self.shared.quantum;
            // Each direction is the first one at times, as that one may take everything.
            self.to_source_first = !self.to_source_first;
        }
        Poll::Ready(self.granted)
    }

    /// Takes a quantum out of every bucket.
    fn poll_acquire_all(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((scope, queue)) = self.buckets.get(self.acquired) {
            let is_first_attempt = !self.ticket.is_queued();
            let quantum = self.shared.quantum;
            let acquired = queue.poll_acquire(&mut self.ticket, quantum, now(), cx.waker());
            if acquired == Acquire::Ready {
                self.acquired += 1;
                continue;
            }
            if is_first_attempt {
                self.shared.count_wait(*scope);
            }
            match acquired {
                Acquire::NotBefore(then) => ready!(self.poll_sleep(then, cx)),
                Acquire::Queued | Acquire::Ready => return Poll::Pending,
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
    pub fn consume(&mut self, bytes: u64) {
        self.granted = self.granted.saturating_sub(bytes);
    }

    /// Whether the direction to the source is to be polled before the other one.
    pub fn to_source_first(&self) -> bool {
        self.to_source_first
    }

    /// A direction lets others have their turn, and will go on at once.
    pub fn retain(&mut self) {
        self.is_retained = true;
    }

    /// Both directions were polled: what is left goes back, unless one of them goes on.
    pub fn release(&mut self) {
        if !take(&mut self.is_retained) {
            let unused = take(&mut self.granted);
            self.refund(unused);
        }
    }

    fn refund(&self, bytes: u64) {
        if bytes > 0 {
            for (_, queue) in &self.buckets {
                queue.refund(bytes);
            }
        }
    }
}

impl Drop for CircuitLimiter {
    fn drop(&mut self) {
        self.refund(self.granted);
        for (_, queue) in self.buckets.iter().take(self.acquired) {
            queue.refund(self.shared.quantum);
        }
        if let Some((_, queue)) = self.buckets.get(self.acquired) {
            queue.cancel(&mut self.ticket);
        }
        self.shared.release_peers(self.peers);
    }
}
