//! When memory is short, and when it is no more.

/// From so many hundredths of the limit on, somebody has to go.
const OVER: u64 = 95;
/// From so many hundredths of the limit on, it is short.
const NEAR: u64 = 90;
/// Below so many, it is no more. In between it stays what it was, so that it does not flap.
const FAR: u64 = 85;

/// Three marks, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermarks {
    over: u64,
    near: u64,
    far: u64,
}

impl Watermarks {
    /// The watermarks of `limit` bytes.
    pub(super) fn of(limit: u64) -> Self {
        let hundredths = |n: u64| limit / 100 * n + limit % 100 * n / 100;
        Self {
            over: hundredths(OVER),
            near: hundredths(NEAR),
            far: hundredths(FAR),
        }
    }

    /// Whether so many used bytes are over it.
    pub(super) fn is_over(self, used: u64) -> bool {
        used >= self.over
    }

    /// How many of so many used bytes have to be released until there is no pressure.
    pub(super) fn excess(self, used: u64) -> u64 {
        used.saturating_sub(self.far)
    }

    /// Whether so many used bytes are near it, if they `was` near before.
    pub(super) fn is_near(self, used: u64, was: bool) -> bool {
        used >= if was { self.far } else { self.near }
    }
}
