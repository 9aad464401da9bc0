//! How often something may happen: for each peer and for each IP address, in bounded memory.
//!
//! A [`Rate`] is a burst and a refill: never more than `burst + rate × t` in any time `t`. A
//! [`Limiter`] applies one to many keys apart. Who uses it says what its keys are: the
//! [gater](crate::transport::ConnectionGater) counts connections, the [relay](crate::relay) requests.
//!
//! The arithmetic (GCRA) is governor's. Its own keyed stores keep a state for every key that was
//! ever seen until somebody walks through all of them; peer ids are free, and an attacker may have
//! four billion networks. So a [`Limiter`] keeps the states of [`MAX_KEYS`] keys, whatever comes.

mod limiter;
mod state_store;
#[cfg(test)]
mod tests;

use std::{fmt, num::NonZeroU32, time::Duration};

pub use self::{limiter::Limiter, state_store::MAX_KEYS};

/// So many at once, and so many more in each while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many may come at once; from 1 to [`Self::MAX`].
    pub burst: NonZeroU32,
    /// How many more may come in each [`Self::per`]; from 1 to [`Self::MAX`].
    pub refill: NonZeroU32,
    /// The while.
    pub per: Unit,
}

/// The while in which a [`Rate`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Written `s`.
    Second,
    /// Written `m`.
    Minute,
    /// Written `h`.
    Hour,
}

impl Rate {
    /// The largest burst, and the most of a refill. With more of either, nothing would be limited.
    pub const MAX: u32 = 1_000_000;

    /// A rate that is fixed; each number is 1 at least.
    pub(crate) const fn fixed(burst: u32, refill: u32, per: Unit) -> Self {
        Self {
            burst: at_least_one(burst),
            refill: at_least_one(refill),
            per,
        }
    }

    /// The time in which one more may come. Rounded up, so that no more come than the rate says.
    fn interval(self) -> Duration {
        let nanos = u64::try_from(self.per.duration().as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos.div_ceil(self.refill.get().into()))
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(number.saturating_sub(1))
}

/// `500+20/s`: 500 at once, and 20 more each second.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}/{}", self.burst, self.refill, self.per.letter())
    }
}

impl Unit {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    /// How it is written.
    pub fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
        }
    }

    fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        })
    }
}
