use std::{num::NonZeroU32, time::Duration};

use governor::{nanos::Nanos, state::StateStore};
use proptest::{collection::vec, prelude::*};
use tokio::time::{Instant, advance};

use super::{state_store::ShardedStore, *};

fn rate(burst: u32, refill: u32, per: Unit) -> Rate {
    Rate {
        burst: NonZeroU32::new(burst).unwrap(),
        refill: NonZeroU32::new(refill).unwrap(),
        per,
    }
}

fn rates() -> impl Strategy<Value = Rate> {
    let unit = prop_oneof![Just(Unit::Second), Just(Unit::Minute), Just(Unit::Hour)];
    (1..20_u32, 1..50_u32, unit).prop_map(|(burst, refill, per)| rate(burst, refill, per))
}

/// Runs a future with paused time.
fn on_paused_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(future)
}

/// The decision for each key in `asked`, after the pause before it.
async fn grants(rate: Rate, asked: &[(u8, u64)]) -> Vec<(u8, Instant, bool)> {
    let limiter = Limiter::new(rate);
    let mut granted = Vec::new();
    for (key, pause) in asked {
        advance(Duration::from_millis(*pause)).await;
        granted.push((*key, Instant::now(), limiter.allows(key)));
    }
    granted
}

/// Keys, each with a pause in milliseconds before it.
fn asked() -> impl Strategy<Value = Vec<(u8, u64)>> {
    vec((0..3_u8, prop_oneof![Just(0), 0..2000_u64]), 1..200)
}

proptest! {
    #[test]
    fn burst_and_rate_are_never_exceeded(rate in rates(), asked in asked()) {
        let granted = on_paused_time(grants(rate, &asked));
        for key in 0..3 {
            let times: Vec<_> = granted
                .iter()
                .filter(|(other, _, granted)| *other == key && *granted)
                .map(|(_, time, _)| *time)
                .collect();
            for (first, start) in times.iter().enumerate() {
                for (last, end) in times.iter().enumerate().skip(first) {
                    let time = (*end - *start).as_nanos();
                    let refilled = time * u128::from(rate.refill.get())
                        / rate.per.duration().as_nanos();
                    let most = u128::from(rate.burst.get()) + refilled;
                    prop_assert!(((last - first) as u128) < most);
                }
            }
        }
    }

    #[test]
    fn keys_are_limited_separately(rate in rates(), asked in asked()) {
        let together = on_paused_time(grants(rate, &asked));
        for key in 0..3 {
            // The same times without other keys.
            let mut pause = 0;
            let mut alone = Vec::new();
            for (other, before) in &asked {
                pause += before;
                if *other == key {
                    alone.push((key, std::mem::take(&mut pause)));
                }
            }
            let alone = on_paused_time(grants(rate, &alone));
            let alone: Vec<_> = alone.iter().map(|(.., granted)| *granted).collect();
            let among: Vec<_> = together
                .iter()
                .filter(|(other, ..)| *other == key)
                .map(|(.., granted)| *granted)
                .collect();
            prop_assert_eq!(alone, among);
        }
    }
}

#[test]
fn denied_attempts_do_not_extend_the_wait() {
    on_paused_time(async {
        let limiter = Limiter::new(rate(5, 2, Unit::Second));
        let allowed = |n| (0..n).filter(|_| limiter.allows(&"key")).count();
        assert_eq!(allowed(1000), 5);
        advance(Duration::from_millis(499)).await;
        assert_eq!(allowed(1000), 0);
        advance(Duration::from_millis(1)).await;
        assert_eq!(allowed(1000), 1);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(allowed(1000), 5);
    });
}

#[test]
fn largest_rates_and_bursts_apply() {
    on_paused_time(async {
        let limiter = Limiter::new(rate(Rate::MAX, 1, Unit::Hour));
        assert_eq!(
            (0..Rate::MAX).filter(|_| limiter.allows(&1)).count(),
            1_000_000
        );
        assert!(!limiter.allows(&1));
        advance(Duration::from_secs(3600)).await;
        assert!(limiter.allows(&1));
        assert!(!limiter.allows(&1));
        let limiter = Limiter::new(rate(1, Rate::MAX, Unit::Second));
        assert!(limiter.allows(&1));
        assert!(!limiter.allows(&1));
        advance(Duration::from_micros(1)).await;
        assert!(limiter.allows(&1));
    });
}

/// The documented size at [`MAX_KEYS`], with a margin for the tables.
const BYTES_OF_KEY: usize = 40;

#[test]
fn million_keys_stay_within_the_memory_bound() {
    on_paused_time(async {
        let limiter = Limiter::new(rate(1, 1, Unit::Hour));
        assert!(limiter.allows(&u64::MAX));
        let taken = allocation_counter::measure(|| {
            for key in 0..1_000_000_u64 {
                assert!(limiter.allows(&key), "a new key is allowed: {key}");
                if key % 1000 == 0 {
                    // This key is used all the time, so it is not evicted.
                    assert!(!limiter.allows(&u64::MAX));
                }
            }
        });
        let bytes = usize::try_from(taken.bytes_max).unwrap();
        assert!(bytes <= MAX_KEYS * BYTES_OF_KEY, "{bytes} bytes");
        assert!(bytes >= MAX_KEYS * 16, "measured nothing: {bytes} bytes");
        println!("{bytes} bytes, {} a key", bytes / MAX_KEYS);
    });
}

#[test]
fn least_recently_used_keys_are_evicted() {
    let store = ShardedStore::new();
    let touch = |key: u64| {
        let seen: Result<_, ()> =
            store.measure_and_replace(&key, |state| Ok((state.is_some(), Nanos::new(1))));
        seen.unwrap()
    };
    let keys = u64::try_from(MAX_KEYS).unwrap();
    let half = keys / 2;
    assert!((0..half).all(|key| !touch(key)));
    assert!((0..half).all(touch));
    assert!((half..keys).all(|key| !touch(key)));
    assert_eq!(store.len(), MAX_KEYS);
    assert!((half..keys).all(touch));

    // A denied attempt marks the key as used, too.
    let refused: Result<(), ()> = store.measure_and_replace(&2, |_| Err(()));
    assert_eq!(refused, Err(()));
    assert!(touch(3));
    for other in [2 + 16, 3 + 16] {
        assert!(!touch(other), "other keys of its shard were evicted");
    }
    assert!(touch(2) && touch(3) && touch(keys - 1));
}
