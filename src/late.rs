//! Wakers that wait until whoever wakes has ended its turn.
//!
//! Who is woken in the middle of a turn begins on another thread, if one is idle, and waits there for
//! the locks of what the turn still works on. That costs more than what it has to do. So a turn that
//! works on the same things several times keeps back whom it wakes.

use std::{
    cell::RefCell,
    mem,
    sync::Arc,
    task::{Context, Wake, Waker},
};

use futures::task::AtomicWaker;

/// The turn that a task has on this thread.
#[derive(Default)]
struct Turn {
    is_on: bool,
    woken: Vec<Arc<Sleeper>>,
}

thread_local! {
    static TURN: RefCell<Turn> = RefCell::new(Turn::default());
}

/// Ends the turn, also if it panics.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let mut woken = TURN.with_borrow_mut(|turn| {
            turn.is_on = false;
            mem::take(&mut turn.woken)
        });
        for sleeper in woken.drain(..) {
            sleeper.0.wake();
        }
        // With the room that it has.
        TURN.with_borrow_mut(|turn| turn.woken = woken);
    }
}

/// A turn: whoever is [sleeping](Sleeping) and is woken during it wakes at its end. One within another
/// ends with that.
pub fn turn<R>(poll: impl FnOnce() -> R) -> R {
    let is_first = TURN.with_borrow_mut(|turn| !mem::replace(&mut turn.is_on, true));
    // Not `then_some`: its argument would end the turn at once where it is not the first.
    let _end = if is_first { Some(End) } else { None };
    poll()
}

#[derive(Debug)]
struct Sleeper(AtomicWaker);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        // There are no turns any more on a thread that ends.
        let waits = TURN.try_with(|turn| {
            let mut turn = turn.borrow_mut();
            if turn.is_on {
                turn.woken.push(Arc::clone(&self));
            }
            turn.is_on
        });
        if waits != Ok(true) {
            self.0.wake();
        }
    }
}

/// What a task that is to be woken late is polled with.
#[derive(Debug)]
pub struct Sleeping {
    sleeper: Arc<Sleeper>,
    waker: Waker,
}

impl Default for Sleeping {
    fn default() -> Self {
        let sleeper = Arc::new(Sleeper(AtomicWaker::new()));
        let waker = Arc::clone(&sleeper).into();
        Self { sleeper, waker }
    }
}

impl Sleeping {
    /// The context that stands for `cx`. It is for one poll: in each, this is to be called anew.
    pub fn context(&self, cx: &Context<'_>) -> Context<'_> {
        self.sleeper.0.register(cx.waker());
        Context::from_waker(&self.waker)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use super::*;

    /// Counts how often a task is woken.
    #[derive(Default)]
    pub(crate) struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    impl Woken {
        pub(crate) fn new() -> (Arc<Self>, Waker) {
            let woken = Arc::new(Self::default());
            (Arc::clone(&woken), woken.into())
        }

        pub(crate) fn times(&self) -> usize {
            self.0.load(SeqCst)
        }
    }

    /// Who counts how often the task is woken, and who wakes it.
    fn sleeping() -> (Arc<Woken>, Waker) {
        let (woken, waker) = Woken::new();
        let sleeping = Sleeping::default();
        let late = sleeping.context(&Context::from_waker(&waker));
        (woken, late.waker().clone())
    }

    #[test]
    fn a_turn_ends_before_somebody_wakes() {
        let (woken, waker) = sleeping();
        turn(|| {
            waker.wake_by_ref();
            turn(|| waker.wake_by_ref());
            assert_eq!(woken.times(), 0);
        });
        assert_eq!(woken.times(), 1, "a task that is awake is not woken again");
    }

    #[test]
    fn who_is_woken_outside_of_a_turn_wakes_at_once() {
        let (woken, waker) = sleeping();
        turn(|| ());
        waker.wake_by_ref();
        assert_eq!(woken.times(), 1);
    }

    #[test]
    fn the_turn_of_one_thread_keeps_nobody_waiting_for_another() {
        let (woken, waker) = sleeping();
        turn(|| {
            std::thread::spawn(move || waker.wake()).join().unwrap();
            assert_eq!(woken.times(), 1);
        });
    }

    #[test]
    fn a_turn_that_panics_wakes_as_well() {
        let (woken, waker) = sleeping();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            turn(|| {
                waker.wake_by_ref();
                panic!("on purpose");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(woken.times(), 1);
        let (woken, waker) = sleeping();
        waker.wake();
        assert_eq!(woken.times(), 1, "no turn is on");
    }
}
