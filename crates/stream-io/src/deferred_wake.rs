//! Wakers that defer the wake until the current poll on the same thread has ended.
//!
//! A task that is woken in the middle of another task's poll starts on an idle worker thread at
//! once, and then blocks on locks that the poll still holds. The contention costs more than the
//! work of the woken task. A poll that works repeatedly on shared state therefore runs inside
//! [`defer_wakes`], and the tasks that it wakes use a [`DeferredWaker`].

use std::{
    cell::RefCell,
    mem,
    sync::Arc,
    task::{Context, Wake, Waker},
};

use futures::task::AtomicWaker;

/// The wakes that are deferred on this thread.
#[derive(Default)]
struct Deferred {
    /// Whether a call of [`defer_wakes`] is active.
    is_active: bool,
    wakers: Vec<Arc<Inner>>,
}

thread_local! {
    static DEFERRED: RefCell<Deferred> = RefCell::new(Deferred::default());
}

/// Wakes the deferred tasks when the outermost [`defer_wakes`] ends, also by a panic.
struct WakeOnDrop;

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        // Taken out before the first wake: a waker runs arbitrary code, which may defer again.
        let mut wakers = DEFERRED.with_borrow_mut(|deferred| {
            deferred.is_active = false;
            mem::take(&mut deferred.wakers)
        });
        for inner in wakers.drain(..) {
            inner.0.wake();
        }
        // Keeps the allocation for the next call.
        DEFERRED.with_borrow_mut(|deferred| deferred.wakers = wakers);
    }
}

/// Runs `poll`. Every [`DeferredWaker`] that is woken on this thread meanwhile wakes its task when
/// `poll` has returned or panicked. Nested calls are part of the outermost one.
pub fn defer_wakes<R>(poll: impl FnOnce() -> R) -> R {
    let is_outermost =
        DEFERRED.with_borrow_mut(|deferred| !mem::replace(&mut deferred.is_active, true));
    // Not `then_some`: its argument is constructed, and dropped, in a nested call as well.
    let _guard = if is_outermost { Some(WakeOnDrop) } else { None };
    poll()
}

#[derive(Debug)]
struct Inner(AtomicWaker);

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        // The thread-local value is gone while a thread exits; then the task is woken directly.
        let is_deferred = DEFERRED.try_with(|deferred| {
            let mut deferred = deferred.borrow_mut();
            if deferred.is_active {
                deferred.wakers.push(Arc::clone(&self));
            }
            deferred.is_active
        });
        if is_deferred != Ok(true) {
            self.0.wake();
        }
    }
}

/// A waker for a task that may be woken inside [`defer_wakes`].
#[derive(Debug)]
pub struct DeferredWaker {
    inner: Arc<Inner>,
    waker: Waker,
}

impl Default for DeferredWaker {
    fn default() -> Self {
        let inner = Arc::new(Inner(AtomicWaker::new()));
        let waker = Arc::clone(&inner).into();
        Self { inner, waker }
    }
}

impl DeferredWaker {
    /// A context whose waker wakes the task of `cx`, deferred. To be called in each poll, since the
    /// waker of `cx` may change between polls.
    pub fn context(&self, cx: &Context<'_>) -> Context<'_> {
        self.inner.0.register(cx.waker());
        Context::from_waker(&self.waker)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use futures_test::task::{AwokenCount, new_count_waker};

    use super::*;

    /// The wake counter of a task, and a deferred waker of the task.
    fn deferred_waker() -> (AwokenCount, Waker) {
        let (waker, counter) = new_count_waker();
        let deferred = DeferredWaker::default();
        let cx = deferred.context(&Context::from_waker(&waker));
        (counter, cx.waker().clone())
    }

    #[test]
    fn wake_is_deferred_until_the_outermost_poll_ends() {
        let (counter, waker) = deferred_waker();
        defer_wakes(|| {
            waker.wake_by_ref();
            defer_wakes(|| waker.wake_by_ref());
            assert_eq!(counter.get(), 0);
        });
        assert_eq!(counter.get(), 1, "an awake task is not woken again");
    }

    #[test]
    fn wake_outside_of_a_poll_is_immediate() {
        let (counter, waker) = deferred_waker();
        defer_wakes(|| ());
        waker.wake_by_ref();
        assert_eq!(counter.get(), 1);
    }

    #[test]
    fn wakes_on_another_thread_are_not_deferred() {
        let (counter, waker) = deferred_waker();
        defer_wakes(|| {
            std::thread::spawn(move || waker.wake()).join().unwrap();
            assert_eq!(counter.get(), 1);
        });
    }

    #[test]
    fn deferred_wakes_survive_a_panic() {
        let (counter, waker) = deferred_waker();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            defer_wakes(|| {
                waker.wake_by_ref();
                panic!("on purpose");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(counter.get(), 1);
        let (counter, waker) = deferred_waker();
        waker.wake();
        assert_eq!(counter.get(), 1, "no call is active");
    }
}
