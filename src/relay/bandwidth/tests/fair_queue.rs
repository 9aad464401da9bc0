//! The bucket, and the line for it.

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

/// What happens to a line.
#[derive(Clone, Debug)]
enum Step {
    /// Time goes on, by so many microseconds; whose turn comes uses so much of it, in percent.
    Wait(u64, u64),
    /// Somebody comes.
    Join,
    /// Somebody who waits gives up.
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

/// Everything that is done to a line, and what came of it.
struct Run {
    queue: FairQueue,
    /// Only what is used is taken out of it.
    ideal: Bucket,
    quantum: u64,
    now: Instant,
    /// In the order in which they came.
    tickets: Vec<Ticket>,
    used: Vec<(Instant, u64)>,
}

impl Run {
    /// Whoever came first takes what there is, and uses so much of it; gives when the next one can.
    fn serve(&mut self, part: u64) -> Option<Instant> {
        loop {
            let first = self.tickets.first_mut()?;
            let attempt = self
                .queue
                .poll_acquire(first, self.quantum, self.now, Waker::noop());
            match attempt {
                Acquire::Queued => panic!("nobody is before the first"),
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
                    assert!(then > self.now, "time goes on");
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
                    assert!(self.tickets.is_empty(), "nobody is overtaken");
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
    fn no_more_passes_than_rate_and_burst_allow_and_nothing_is_lost(
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
        // From any moment to any other one.
        for (first, (from, _)) in run.used.iter().enumerate() {
            let mut passed = 0;
            for (to, bytes) in &run.used[first..] {
                passed += bytes;
                let billionths = (*to - *from).as_nanos() * u128::from(bytes_per_second);
                let allowed = u128::from(burst) * 1_000_000_000 + billionths;
                prop_assert!(u128::from(passed) * 1_000_000_000 <= allowed);
            }
        }
        // As if nobody had ever waited or given up.
        prop_assert_eq!(run.queue.available(run.now), run.ideal.available(run.now));
        // It ends: as soon as all who wait can have their quantum at this rate.
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
fn turns_come_in_order_of_arrival() {
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
    // There is enough for all, and still nobody is overtaken.
    assert_eq!(take(&mut d, after(100)), Acquire::Queued);
    assert_eq!(take(&mut b, after(100)), Acquire::Queued);
    queue.cancel(&mut b);
    assert_eq!(take(&mut a, after(100)), Acquire::Ready);
    assert_eq!(take(&mut a, after(100)), Acquire::Queued);
    assert_eq!(take(&mut c, after(100)), Acquire::Ready);
    assert_eq!(take(&mut d, after(100)), Acquire::NotBefore(after(150)));
    // What comes back is for whoever is first.
    queue.refund(50);
    assert_eq!(take(&mut a, after(100)), Acquire::Queued);
    assert_eq!(take(&mut d, after(100)), Acquire::Ready);
    assert_eq!(take(&mut a, after(100)), Acquire::NotBefore(after(150)));
    assert_eq!(queue.available(after(125)), 25);
}

#[test]
fn it_bears_everything_that_can_be_configured() {
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
        // A clock that another thread has read a moment earlier.
        bucket.take(1, now + Duration::from_secs(1)).unwrap();
        bucket.take(1, now).unwrap();
    }
}
