//! Limits of circuits that are opened during a drain.

use std::time::Duration;

use super::{limits::CircuitLimit, stop::STOP_TIMEOUT};

/// Minimum duration of a circuit that is opened during a drain, unless the configured limit is
/// shorter: time for the handshake between the peers, one request, or a hole punch, over a slow
/// network. A shorter circuit is refused, so that the source tries another relay.
const MIN_DURATION: Duration = Duration::from_secs(10);

/// Time that opening a circuit may take after its limit was determined: STOP, and the answer to the
/// source.
const OPENING_TIME: Duration = STOP_TIMEOUT.saturating_add(Duration::from_secs(1));

/// The limit of a circuit that is opened `left` before the deadline of a drain: the configured
/// `limit`, shortened to whole seconds so that it ends before the deadline. `None` if that leaves
/// less than a useful time.
pub(super) fn before_deadline(limit: CircuitLimit, left: Duration) -> Option<CircuitLimit> {
    let left = Duration::from_secs(left.saturating_sub(OPENING_TIME).as_secs());
    let least = limit.duration.unwrap_or(MIN_DURATION).min(MIN_DURATION);
    let duration = limit.duration.unwrap_or(left).min(left);
    (duration >= least).then_some(CircuitLimit {
        duration: Some(duration),
        ..limit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(limit: Option<u64>, left_ms: u64) -> Option<u64> {
        let limit = CircuitLimit {
            duration: limit.map(Duration::from_secs),
            bytes: Some(7),
        };
        let limit = before_deadline(limit, Duration::from_millis(left_ms))?;
        assert_eq!(limit.bytes, Some(7));
        limit.duration.map(|duration| duration.as_secs())
    }

    #[test]
    fn circuits_end_before_the_deadline() {
        assert_eq!(duration(Some(60), 69_000), Some(60));
        assert_eq!(duration(Some(60), 68_999), Some(59));
        assert_eq!(duration(None, 3_609_500), Some(3600));
    }

    #[test]
    fn circuits_of_less_than_a_useful_time_are_refused() {
        assert_eq!(duration(Some(60), 19_000), Some(10));
        assert_eq!(duration(Some(60), 18_999), None);
        assert_eq!(duration(None, 18_999), None);
        assert_eq!(duration(Some(60), 0), None);
        assert_eq!(duration(Some(2), 11_000), Some(2), "as configured");
        assert_eq!(duration(Some(2), 10_999), None);
    }
}
