//! Circuits that are unused or idle, and circuits that are evicted.

use tokio::time::{Instant, sleep};

use super::*;

const UNUSED: Duration = Duration::from_secs(30);
/// One second less.
const NEARLY_UNUSED: Duration = Duration::from_secs(29);
const IDLE: Duration = Duration::from_secs(100);
/// One second less.
const NEARLY_IDLE: Duration = Duration::from_secs(99);
const SECOND: Duration = Duration::from_secs(1);

/// Runs a circuit with these timeouts. Returns why it ended, and after how long.
async fn run(
    unused_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    state: &CircuitState,
    clients: impl AsyncFnOnce(&mut Pipe, &mut Pipe),
) -> (EndReason, Duration) {
    let (mut a, source) = pipe(100_000);
    let (mut b, target) = pipe(100_000);
    let (shutdown, begun) = (CancellationToken::new(), Instant::now());
    let bounds = Bounds {
        unused_timeout,
        idle_timeout,
        ..bounds(limit(None, None), &shutdown, state)
    };
    let (source, target) = (side(source), side(target));
    let circuit = async {
        let outcome = relay(source, EarlyData::default(), target, bounds, None, |_| ()).await;
        (outcome.end, begun.elapsed())
    };
    tokio::join!(circuit, clients(&mut a, &mut b)).0
}

#[tokio::test(start_paused = true)]
async fn circuit_ends_when_its_target_has_sent_nothing_in_time() {
    let state = CircuitState::default();
    let ended = run(Some(UNUSED), Some(IDLE), &state, async |source, _| {
        // Data of the source does not make a circuit used.
        while source.write_all(b"anybody there?").await.is_ok() {
            sleep(SECOND).await;
        }
    });
    assert_eq!(ended.await, (EndReason::Unused, UNUSED));
    assert!(!state.is_used());
}

#[tokio::test(start_paused = true)]
async fn circuit_whose_target_has_sent_a_byte_is_used() {
    let state = CircuitState::default();
    let ended = run(Some(UNUSED), None, &state, async |source, target| {
        sleep(NEARLY_UNUSED).await;
        assert!(!state.is_used());
        target.write_all(b"!").await.unwrap();
        source.read_exact(&mut [0]).await.unwrap();
        assert!(state.is_used());
        sleep(10 * UNUSED).await;
        source.close().await.unwrap();
        target.close().await.unwrap();
    });
    assert_eq!(ended.await, (EndReason::Eof, NEARLY_UNUSED + 10 * UNUSED));
}

#[tokio::test(start_paused = true)]
async fn used_circuit_ends_when_no_byte_has_moved_in_time() {
    for is_source in [true, false] {
        let state = CircuitState::default();
        let ended = run(Some(UNUSED), Some(IDLE), &state, async |source, target| {
            target.write_all(b"!").await.unwrap();
            let sender = if is_source { source } else { target };
            for _ in 0..5 {
                sleep(NEARLY_IDLE).await;
                sender.write_all(b"still here").await.unwrap();
            }
        });
        assert_eq!(ended.await, (EndReason::Idle, 5 * NEARLY_IDLE + IDLE));
    }
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_waits_until_the_circuit_is_used() {
    let state = CircuitState::default();
    let ended = run(None, Some(IDLE), &state, async |_, target| {
        sleep(10 * IDLE + SECOND).await;
        target.write_all(b"!").await.unwrap();
    });
    let (end, after) = ended.await;
    assert_eq!(end, EndReason::Idle);
    let least = 11 * IDLE + SECOND;
    assert!((least..=least + IDLE).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn circuits_without_timeouts_stay_open() {
    let state = CircuitState::default();
    let ended = run(None, None, &state, async |source, target| {
        sleep(1000 * IDLE).await;
        source.close().await.unwrap();
        target.close().await.unwrap();
    });
    assert_eq!(ended.await, (EndReason::Eof, 1000 * IDLE));
}

#[tokio::test(start_paused = true)]
async fn evicted_circuit_ends_at_once() {
    let state = CircuitState::default();
    let ended = run(Some(UNUSED), None, &state, async |_, _| {
        sleep(SECOND).await;
        state.evict();
    });
    assert_eq!(ended.await, (EndReason::Evicted, SECOND));
}
