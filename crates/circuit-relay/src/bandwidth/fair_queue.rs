//! A token bucket with a FIFO queue of waiting circuits.
//!
//! Only the first circuit of the queue can take bytes, and only it has a timer. A circuit that
//! comes back is appended to the queue, so circuits take turns.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Instant,
};

use hashlink::LinkedHashMap;

use super::{ByteRate, bucket::Bucket};

/// A bucket shared by several circuits. Each circuit is in the queue at most once.
#[derive(Clone, Debug)]
pub(super) struct FairQueue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bucket: Bucket,
    /// Wakers by ticket, in order of arrival.
    waiting: LinkedHashMap<u64, Waker>,
    tickets: u64,
}

/// A position in the queue, or none. Pass it to the next attempt, or to [`FairQueue::cancel`].
#[derive(Debug, Default)]
pub(super) struct Ticket(Option<u64>);

impl Ticket {
    /// Whether the ticket is for a position in the queue.
    pub(super) fn is_queued(&self) -> bool {
        self.0.is_some()
    }
}

/// Result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquire {
    /// The bytes are taken, and the ticket is used up.
    Ready,
    /// First in the queue, but the bucket has too few bytes before this instant. The task may be
    /// woken earlier.
    NotBefore(Instant),
    /// Not first in the queue. The task is woken when it may be.
    Queued,
}

impl FairQueue {
    /// Creates an empty queue for a full bucket.
    pub(super) fn new(rate: ByteRate, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(State {
            bucket: Bucket::new(rate.bytes_per_second, rate.burst, now),
            waiting: LinkedHashMap::new(),
            tickets: 0,
        })))
    }

    /// Takes bytes if the ticket is first in the queue or the queue is empty. Otherwise queues the
    /// ticket, or keeps its position, and wakes the task when another attempt may succeed.
    pub(super) fn poll_acquire(
        &self,
        ticket: &mut Ticket,
        bytes: u64,
        now: Instant,
        waker: &Waker,
    ) -> Acquire {
        let mut state = self.state();
        let first = state.waiting.front().map(|(ticket, _)| *ticket);
        if first.is_some() && first != ticket.0 {
            state.wait(ticket, waker);
            return Acquire::Queued;
        }
        match state.bucket.take(bytes, now) {
            Ok(()) => {
                drop(state);
                self.cancel(ticket);
                Acquire::Ready
            }
            Err(then) => {
                state.wait(ticket, waker);
                Acquire::NotBefore(then)
            }
        }
    }

    /// Leaves the queue, and wakes the task that is first then.
    pub(super) fn cancel(&self, ticket: &mut Ticket) {
        if let Some(ticket) = ticket.0.take() {
            let mut state = self.state();
            state.waiting.remove(&ticket);
            wake_first(state);
        }
    }

    /// Returns unused bytes to the bucket, and wakes the first task.
    pub(super) fn refund(&self, bytes: u64) {
        let mut state = self.state();
        state.bucket.refund(bytes);
        wake_first(state);
    }

    /// Whether the bucket is full.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.state().bucket.is_full(now)
    }

    /// Bytes in the bucket.
    pub(super) fn available(&self, now: Instant) -> u64 {
        self.state().bucket.available(now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, ticket: &mut Ticket, waker: &Waker) {
        let ticket = *ticket.0.get_or_insert_with(|| {
            self.tickets += 1;
            self.tickets
        });
        // Inserting it again would move it to the end.
        match self.waiting.get_mut(&ticket) {
            Some(registered) => registered.clone_from(waker),
            None => {
                self.waiting.insert(ticket, waker.clone());
            }
        }
    }
}

/// Wakes the first task. The lock is released before, because a waker runs foreign code.
fn wake_first(state: MutexGuard<'_, State>) {
    let first = state.waiting.front().map(|(_, waker)| waker.clone());
    drop(state);
    if let Some(waker) = first {
        waker.wake();
    }
}
