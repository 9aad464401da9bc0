//! The token bucket and its queue.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::super::{
    ByteRate,
    bucket::Bucket,
    fair_queue::{Acquire, FairQueue, Ticket},
};

/// An operation on a queue.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes, in microseconds; circuits whose turn comes use this percentage of their
    /// quantum.
    Wait(u64, u64),
    /// A circuit joins.
    Join,
    /// A waiting circuit leaves.
    Leave(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..50_000u64, 0..=100u64).prop_map(|(time, part)| Step::Wait(time, part)),
        Just(Step::Join),
        Just(Step::Join),
        any::<prop::sample::Index>().prop_map(Step::Leave),
    ];
    prop::collection::vec(step, 1..200)
}

/// A queue under test, with the results of all operations.
struct Run {
    queue: FairQueue,
    /// A bucket from which only used bytes are taken.
    ideal: Bucket,
    quantum: u64,
    now: Instant,
    /// Tickets in order of arrival.
    tickets: Vec<Ticket>,
    used: Vec<(Instant, u64)>,
}

impl Run {
    /// Serves waiting circuits while there are bytes, each using `part` percent of its quantum.
    /// Returns when the next one can be served.
    fn serve(&mut self, part: u64) -> Option<Instant> {
        loop {
            let first = self.tickets.first_mut()?;
            let attempt = self
                .queue
                .poll_acquire(first, self.quantum, self.now, Waker::noop());
            match attempt {
                Acquire::Queued => panic!("the first is never queued behind another"),
                Acquire::NotBefore(then) => return Some(then),
                Acquire::Ready => {
                    self.tickets.remove(0);
                    let used = self.quantum * part / 100;
                    self.queue.refund(self.quantum - used);
                    self.ideal.take(used, self.now).unwrap();
                    self.used.push((self.now, used));
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(microseconds, part) => {
                let end = self.now + Duration::from_micros(*microseconds);
                while let Some(then) = self.serve(*part).filter(|then| *then <= end) {
                    assert!(then > self.now, "time advances");
                    self.now = then;
                }
                self.now = end;
            }
            Step::Join => {
                let mut ticket = Ticket::default();
                let attempt =
                    self.queue
                        .poll_acquire(&mut ticket, self.quantum, self.now, Waker::noop());
                if attempt == Acquire::Ready {
                    assert!(self.tickets.is_empty(), "no circuit is overtaken");
                    self.ideal.take(self.quantum, self.now).unwrap();
                    self.used.push((self.now, self.quantum));
                } else {
                    self.tickets.push(ticket);
                }
            }
            Step::Leave(index) if !self.tickets.is_empty() => {
                let mut ticket = self.tickets.remove(index.index(self.tickets.len()));
                self.queue.cancel(&mut ticket);
            }
            Step::Leave(_) => {}
        }
    }
}

proptest! {
    #[test]
    fn rate_and_burst_are_never_exceeded_and_no_bytes_are_lost(
        bytes_per_second in 1000..10_000_000u64,
        burst in 1000..1_000_000u64,
        part in 1..=100u64,
        steps in steps(),
    ) {
        let (now, quantum) = (Instant::now(), (burst * part / 100).max(1));
        let mut run = Run {
            queue: FairQueue::new(ByteRate { bytes_per_second, burst }, now),
            ideal: Bucket::new(bytes_per_second, burst, now),
            quantum,
            now,
            tickets: Vec::new(),
            used: Vec::new(),
        };
        for step in &steps {
            run.step(step);
        }
        // For every interval between two grants.
        for (first, (from, _)) in run.used.iter().enumerate() {
            let mut passed = 0;
            for (to, bytes) in &run.used[first..] {
                passed += bytes;
                let billionths = (*to - *from).as_nanos() * u128::from(bytes_per_second);
                let allowed = u128::from(burst) * 1_000_000_000 + billionths;
                prop_assert!(u128::from(passed) * 1_000_000_000 <= allowed);
            }
        }
        // As if no circuit had waited or left.
        prop_assert_eq!(run.queue.available(run.now), run.ideal.available(run.now));
        // All waiting circuits are served as soon as the rate allows.
        let waiting = run.tickets.len() as u128 * u128::from(quantum);
        let longest = (waiting * 1_000_000_000).div_ceil(bytes_per_second.into());
        run.now += Duration::from_nanos(u64::try_from(longest).unwrap());
        let begun = run.now;
        while let Some(then) = run.serve(100) {
            run.now = then;
        }
        prop_assert!(run.now - begun <= Duration::from_nanos(u64::try_from(longest).unwrap()));
        prop_assert!(run.tickets.is_empty());
    }
}

#[test]
fn circuits_are_served_in_order_of_arrival() {
    let now = Instant::now();
    let after = |milliseconds| now + Duration::from_millis(milliseconds);
    let rate = ByteRate {
        bytes_per_second: 1000,
        burst: 100,
    };
    let queue = FairQueue::new(rate, now);
    let [mut a, mut b, mut c, mut d] = [(); 4].map(|()| Ticket::default());
    let take = |ticket: &mut Ticket, now| queue.poll_acquire(ticket, 50, now, Waker::noop());
    assert_eq!(take(&mut a, now), Acquire::Ready);
    assert_eq!(take(&mut a, now), Acquire::Ready);
    assert_eq!(take(&mut a, now), Acquire::NotBefore(after(50)));
    assert_eq!(take(&mut b, now), Acquire::Queued);
    assert_eq!(take(&mut c, now), Acquire::Queued);
    // There are enough bytes for all, but no circuit overtakes another.
    assert_eq!(take(&mut d, after(100)), Acquire::Queued);
    assert_eq!(take(&mut b, after(100)), Acquire::Queued);
    queue.cancel(&mut b);
    assert_eq!(take(&mut a, after(100)), Acquire::Ready);
    assert_eq!(take(&mut a, after(100)), Acquire::Queued);
    assert_eq!(take(&mut c, after(100)), Acquire::Ready);
    assert_eq!(take(&mut d, after(100)), Acquire::NotBefore(after(150)));
    // A refund goes to the first circuit of the queue.
    queue.refund(50);
    assert_eq!(take(&mut a, after(100)), Acquire::Queued);
    assert_eq!(take(&mut d, after(100)), Acquire::Ready);
    assert_eq!(take(&mut a, after(100)), Acquire::NotBefore(after(150)));
    assert_eq!(queue.available(after(125)), 25);
}

#[test]
fn extreme_rates_and_bursts_do_not_overflow() {
    let now = Instant::now();
    for rate in [1, 1000, u64::MAX] {
        let mut bucket = Bucket::new(rate, u64::MAX, now);
        bucket.take(u64::MAX, now).unwrap();
        assert!(bucket.take(u64::MAX, now).unwrap_err() > now);
        for _ in 0..200 {
            bucket.refund(u64::MAX);
        }
        assert!(bucket.is_full(now));
        assert!(bucket.is_full(now + Duration::from_secs(u64::from(u32::MAX))));
        // Another thread may have read the clock a moment earlier.
        bucket.take(1, now + Duration::from_secs(1)).unwrap();
        bucket.take(1, now).unwrap();
    }
}
