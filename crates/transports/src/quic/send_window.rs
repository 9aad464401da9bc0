//! The send window of a connection: how many bytes may be buffered for a peer and not yet
//! acknowledged.
//!
//! quinn keeps a copy of all such bytes for retransmission. More than the bandwidth-delay product
//! does not increase throughput: it waits in the buffer, and no longer fits the CPU cache when it is
//! sent. So the window follows the round-trip time. It is minimal for every peer while memory is under
//! pressure or the connection's account has no room, since a peer can make its round-trip time appear
//! high by acknowledging late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::flow_control::FlowControl;

/// The window per millisecond of round-trip time: enough for 1 Gbit/s.
const BYTES_PER_MILLISECOND: u64 = 128 * 1024;

/// The minimum window in bytes. It is more than the bandwidth-delay product of the lowest round-trip
/// times, because acknowledgements also wait for the scheduler of a busy peer.
const MIN_WINDOW: u64 = 128 * 1024;

/// The window is updated after this number of bytes. The round-trip times of the handshake say little:
/// they include the cryptography, which takes the longer the busier both sides are.
const UPDATE_EVERY_BYTES: usize = 64 * 1024;

/// The send window of one connection. Each stream has a clone, which counts its own bytes.
#[derive(Clone)]
pub(super) struct SendWindow {
    window: Arc<Window>,
    /// Bytes that this clone has sent since it last updated the window.
    unmeasured_bytes: usize,
}

struct Window {
    connection: quinn::Connection,
    flow: Arc<FlowControl>,
    /// The current value. quinn's setter wakes the connection's task, so it is only called on a
    /// change.
    bytes: AtomicU64,
    max: u64,
}

impl SendWindow {
    /// A window of `max` bytes, until the first [`update`](Self::update).
    pub(super) fn new(connection: quinn::Connection, max: u64, flow: Arc<FlowControl>) -> Self {
        let window = Window {
            connection,
            flow,
            bytes: AtomicU64::new(max),
            max,
        };
        Self {
            window: Arc::new(window),
            unmeasured_bytes: 0,
        }
    }

    /// Sets the window according to the minimum round-trip time, and to the memory that is available.
    ///
    /// The window may shrink below the number of bytes that are already buffered. quinn then accepts
    /// no more until enough of them are acknowledged; nothing that was accepted is lost.
    pub(super) fn update(&self) {
        let Window {
            connection,
            flow,
            bytes,
            max,
        } = &*self.window;
        let min = MIN_WINDOW.min(*max);
        // At least `min`, so the difference below does not underflow.
        let target = window_for_rtt(connection.min_rtt(), *max);
        let target = if flow.may_send(target - min) {
            target
        } else {
            min
        };
        // Streams update the window concurrently. The swap lets exactly one of those that compute the
        // same value set it. If two compute different values, quinn may be left with either; the next
        // update of any stream corrects that.
        if bytes.swap(target, Ordering::Relaxed) != target {
            connection.set_send_window(target);
        }
    }

    /// The error by which the connection was lost, if it was.
    pub(super) fn close_reason(&self) -> Option<quinn::ConnectionError> {
        self.window.connection.close_reason()
    }

    /// Counts `bytes` that were written, and updates the window from time to time.
    pub(super) fn on_sent(&mut self, bytes: usize) {
        self.unmeasured_bytes = self.unmeasured_bytes.saturating_add(bytes);
        if self.unmeasured_bytes >= UPDATE_EVERY_BYTES {
            self.unmeasured_bytes = 0;
            self.update();
        }
    }
}

fn window_for_rtt(rtt: Duration, max: u64) -> u64 {
    let microseconds = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
    let bytes = microseconds.saturating_mul(BYTES_PER_MILLISECOND) / 1000;
    // In this order: `max` may be less than the minimum.
    bytes.max(MIN_WINDOW).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn window_is_proportional_to_the_rtt() {
        let window = |rtt| window_for_rtt(rtt, MIB);
        assert_eq!(window(Duration::from_millis(4)), MIB / 2);
        assert_eq!(window(Duration::from_micros(50)), MIN_WINDOW);
        assert_eq!(window(Duration::from_micros(900)), MIN_WINDOW);
        assert_eq!(window(Duration::from_millis(100)), MIB);
        assert_eq!(window(Duration::MAX), MIB);
    }

    #[test]
    fn window_never_exceeds_the_maximum() {
        let max = MIN_WINDOW / 2;
        assert_eq!(window_for_rtt(Duration::ZERO, max), max);
        assert_eq!(window_for_rtt(Duration::from_secs(1), max), max);
    }
}
