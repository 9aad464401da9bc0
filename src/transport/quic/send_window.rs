//! How many bytes may be on their way to a peer.
//!
//! They are kept until the peer has them. What is more than comes back acknowledged in the meantime
//! makes nothing faster: it waits, and the processor has long lost it from its caches when its turn
//! comes. So the window of a peer that is near is a small one. So is that of every peer while memory is
//! under pressure or the connection's account has no room: a peer that acknowledges late seems to be far.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::flow_control::FlowControl;

/// What makes a gigabit a second of each millisecond that the way takes there and back.
const BYTES_PER_MILLISECOND: u64 = 128 * 1024;

/// The least, for the nearest: their acknowledgements wait for their turn, too.
const LEAST: u64 = 128 * 1024;

/// After so many bytes it is looked again how far away the peer is: a handshake takes the longer the
/// busier both sides are, so that the first packets tell little.
const FIT_EVERY: usize = 64 * 1024;

/// The window of one connection, for each who sends on it.
#[derive(Clone)]
pub(super) struct SendWindow {
    window: Arc<Window>,
    /// Bytes that this one has sent since it fitted the window.
    unfitted: usize,
}

struct Window {
    connection: quinn::Connection,
    flow: Arc<FlowControl>,
    /// What it is now: to set it wakes the task of the connection.
    bytes: AtomicU64,
    most: u64,
}

impl SendWindow {
    /// It is as large as it may be, `most` bytes, until it is known how far away the peer is.
    pub(super) fn new(connection: quinn::Connection, most: u64, flow: Arc<FlowControl>) -> Self {
        let bytes = AtomicU64::new(most);
        let window = Window {
            connection,
            flow,
            bytes,
            most,
        };
        Self {
            window: Arc::new(window),
            unfitted: 0,
        }
    }

    /// Fits it to the shortest time that a packet and its acknowledgement have taken.
    pub(super) fn fit(&self) {
        let Window {
            connection,
            flow,
            bytes,
            most,
        } = &*self.window;
        let least = LEAST.min(*most);
        let fitting = fitting(connection.min_rtt(), *most);
        let fitting = if flow.may_send(fitting - least) {
            fitting
        } else {
            least
        };
        if bytes.swap(fitting, Ordering::Relaxed) != fitting {
            connection.set_send_window(fitting);
        }
    }

    /// Why the connection is lost, if it is.
    pub(super) fn close_reason(&self) -> Option<quinn::ConnectionError> {
        self.window.connection.close_reason()
    }

    /// Fits it now and then, as so many more bytes are sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.unfitted = self.unfitted.saturating_add(bytes);
        if self.unfitted >= FIT_EVERY {
            self.unfitted = 0;
            self.fit();
        }
    }
}

fn fitting(round_trip: Duration, most: u64) -> u64 {
    let microseconds = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    let bytes = microseconds.saturating_mul(BYTES_PER_MILLISECOND) / 1000;
    bytes.max(LEAST).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn it_is_what_comes_within_a_round_trip() {
        let fitting = |round_trip| fitting(round_trip, MIB);
        assert_eq!(fitting(Duration::from_millis(4)), MIB / 2);
        assert_eq!(fitting(Duration::from_micros(50)), LEAST);
        assert_eq!(fitting(Duration::from_micros(900)), LEAST);
        assert_eq!(fitting(Duration::from_millis(100)), MIB);
        assert_eq!(fitting(Duration::MAX), MIB);
    }

    #[test]
    fn it_is_never_more_than_it_may_be() {
        assert_eq!(fitting(Duration::ZERO, LEAST / 2), LEAST / 2);
        assert_eq!(fitting(Duration::from_secs(1), LEAST / 2), LEAST / 2);
    }
}
