//! Limits the reads of one circuit.

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
use crate::now;

/// Grants one circuit the bytes that it may read.
///
/// It acquires one quantum at a time from every bucket that applies to the circuit. Both directions
/// use the same quantum. Unused bytes are refunded when neither direction has anything to read, and
/// when the limiter is dropped.
pub struct CircuitLimiter {
    shared: Arc<BandwidthLimiter>,
    peers: [PeerId; 2],
    /// Buckets of the circuit, of both peers and of the relay, as far as they are limited.
    buckets: Vec<(BandwidthScope, FairQueue)>,
    /// Number of buckets from which the next quantum has been acquired.
    acquired: usize,
    /// Ticket for the next bucket.
    ticket: Ticket,
    /// Bytes that may be read now.
    granted: u64,
    /// Created at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether a direction has yielded and will continue to read.
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

    /// Bytes that may be read, at least 1. Report the bytes that were read with [`Self::consume`].
    /// Pending while the bandwidth is exhausted; the task is woken when it may be available.
    pub fn poll_grant(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        if self.granted == 0 {
            ready!(self.poll_acquire_all(cx));
            self.acquired = 0;
            self.granted = self.shared.quantum;
            // The directions alternate in being polled first, because the first one may use the
            // whole quantum.
            self.to_source_first = !self.to_source_first;
        }
        Poll::Ready(self.granted)
    }

    /// Acquires a quantum from every bucket.
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

    /// Charges bytes that were read.
    pub fn consume(&mut self, bytes: u64) {
        self.granted = self.granted.saturating_sub(bytes);
    }

    /// Whether the direction to the source is to be polled first.
    pub fn to_source_first(&self) -> bool {
        self.to_source_first
    }

    /// Keeps the rest of the grant at the next [`Self::release`]: a direction has yielded and will
    /// continue at once.
    pub fn retain(&mut self) {
        self.is_retained = true;
    }

    /// Ends a poll of both directions: refunds the rest of the grant, unless it is retained.
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
