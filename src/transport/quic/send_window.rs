//! How many bytes may be on their way to a peer.
//!
//! They are kept until the peer has them. What is more than comes back acknowledged in the meantime
//! makes nothing faster: it waits, and the processor has long lost it from its caches when its turn
//! comes. So the window of a peer that is near is a small one.

use std::time::Duration;

/// What makes a gigabit a second of each millisecond that the way takes there and back.
const BYTES_PER_MILLISECOND: u64 = 128 * 1024;

/// The least, for the nearest: their acknowledgements wait for their turn, too.
const LEAST: u64 = 128 * 1024;

/// The window of one connection.
pub(super) struct SendWindow {
    bytes: u64,
    most: u64,
}

impl SendWindow {
    /// It is as large as it may be, until it is known how far away the peer is.
    pub(super) fn new(most: u64) -> Self {
        Self { bytes: most, most }
    }

    /// Fits it to the shortest time that a packet and its acknowledgement have taken. Gives the new
    /// window if it is another one.
    pub(super) fn fit(&mut self, round_trip: Duration) -> Option<u64> {
        let microseconds = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        let bytes = microseconds.saturating_mul(BYTES_PER_MILLISECOND) / 1000;
        let bytes = bytes.max(LEAST).min(self.most);
        if bytes == self.bytes {
            return None;
        }
        self.bytes = bytes;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn it_is_what_comes_within_a_round_trip() {
        let mut window = SendWindow::new(MIB);
        assert_eq!(window.fit(Duration::from_millis(4)), Some(MIB / 2));
        assert_eq!(window.fit(Duration::from_millis(4)), None);
        assert_eq!(window.fit(Duration::from_micros(50)), Some(LEAST));
        assert_eq!(window.fit(Duration::from_micros(900)), None);
        assert_eq!(window.fit(Duration::from_millis(100)), Some(MIB));
        assert_eq!(window.fit(Duration::MAX), None);
    }

    #[test]
    fn it_is_never_more_than_it_may_be() {
        let mut window = SendWindow::new(LEAST / 2);
        assert_eq!(window.fit(Duration::ZERO), None);
        assert_eq!(window.fit(Duration::from_secs(1)), None);
    }
}
