//! A bucket, and those who stand in line for it.
//!
//! Whoever is first takes as soon as there is enough, and until then sleeps until there will be;
//! nobody else takes anything before. So there is one timer for a line, and who comes back goes to
//! its end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Instant,
};

use hashlink::LinkedHashMap;

use super::{ByteRate, bucket::Bucket};

/// A bucket that several circuits take from, each of which is in line for it once at most.
#[derive(Clone, Debug)]
pub(super) struct FairQueue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bucket: Bucket,
    /// In the order in which they came, by their tickets.
    waiting: LinkedHashMap<u64, Waker>,
    tickets: u64,
}

/// A place in line; none for whoever is not in it. To be handed in again, or back to
/// [`FairQueue::leave`].
#[derive(Debug, Default)]
pub(super) struct Ticket(Option<u64>);

impl Ticket {
    /// Whether there is one.
    pub(super) fn is_queued(&self) -> bool {
        self.0.is_some()
    }
}

/// What came of an attempt to take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquire {
    /// It is taken, and the place in line is given up.
    Ready,
    /// Not before then, unless woken: nobody is before, but there is not enough yet.
    NotBefore(Instant),
    /// Not before woken: somebody else is first.
    Queued,
}

impl FairQueue {
    /// One where nobody waits, for a bucket that is full.
    pub(super) fn new(rate: ByteRate, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(State {
            bucket: Bucket::new(rate.bytes_per_second, rate.burst, now),
            waiting: LinkedHashMap::new(),
            tickets: 0,
        })))
    }

    /// Takes bytes if it is the turn of whoever has this place, who otherwise gets a place, or
    /// keeps it, and is woken when it is worth to try again.
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

    /// Gives up a place. Whoever is first then tries again.
    pub(super) fn cancel(&self, ticket: &mut Ticket) {
        if let Some(ticket) = ticket.0.take() {
            let mut state = self.state();
            state.waiting.remove(&ticket);
            wake_first(state);
        }
    }

    /// Puts bytes back that were taken and did not pass. Whoever is first tries again.
    pub(super) fn refund(&self, bytes: u64) {
        let mut state = self.state();
        state.bucket.refund(bytes);
        wake_first(state);
    }

    /// Whether nothing more goes into the bucket.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.state().bucket.is_full(now)
    }

    /// How many bytes there are.
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
        // To insert it anew would put it at the end.
        match self.waiting.get_mut(&ticket) {
            Some(registered) => registered.clone_from(waker),
            None => {
                self.waiting.insert(ticket, waker.clone());
            }
        }
    }
}

/// Wakes after the lock is released: a waker runs code of somebody else.
fn wake_first(state: MutexGuard<'_, State>) {
    let first = state.waiting.front().map(|(_, waker)| waker.clone());
    drop(state);
    if let Some(waker) = first {
        waker.wake();
    }
}
