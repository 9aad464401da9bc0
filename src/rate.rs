//! How often something may happen: for each peer and for each IP address, in bounded memory.
//!
//! A [`Rate`] is a burst and a refill: never more than `burst + rate × t` in any time `t`. A
//! [`Limiter`] applies one to many keys apart. Who uses it says what its keys are: the
//! [gater](crate::transport::ConnectionGater) counts connections, the [relay](crate::relay) requests.
//!
//! The arithmetic (GCRA) is governor's. Its own keyed stores keep a state for every key that was
//! ever seen until somebody walks through all of them; peer ids are free, and an attacker may have
//! four billion networks. So a [`Limiter`] keeps the states of [`MAX_KEYS`] keys, whatever comes.

mod cells;
mod limiter;
#[cfg(test)]
mod tests;

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

pub use self::{cells::MAX_KEYS, limiter::Limiter};

/// So many at once, and so many more in each while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many may come at once; from 1 to [`Self::MOST`].
    pub burst: NonZeroU32,
    /// How many more may come in each [`Self::per`]; from 1 to [`Self::MOST`].
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
    pub const MOST: u32 = 1_000_000;

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

/// Why a text is not a [`Rate`]. `Display` gives words that can follow the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRateError {
    /// The text has not the form `BURST+REFILL/UNIT`.
    #[error("is not a burst and a rate")]
    Malformed,
    /// The burst or the refill is not a number.
    #[error("has a part that is not a whole number")]
    NotANumber,
    /// The burst or the refill is 0.
    #[error("has a part that is 0")]
    Zero,
    /// The burst or the refill is larger than [`Rate::MOST`].
    #[error("has a part that is too large")]
    TooLarge,
    /// The unit is not that of a [`Unit`].
    #[error("has a unit other than s, m and h")]
    UnknownUnit,
}

/// Parses the form of [`Display`](fmt::Display); spaces around the parts are ignored.
impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (burst, rest) = text.split_once('+').ok_or(ParseRateError::Malformed)?;
        let (refill, unit) = rest.split_once('/').ok_or(ParseRateError::Malformed)?;
        let burst = parse_number(burst.trim())?;
        let refill = parse_number(refill.trim())?;
        let is_unit = |known: &&Unit| unit.trim().chars().eq([known.letter()]);
        let per = Unit::ALL.iter().find(is_unit).copied();
        Ok(Self {
            burst,
            refill,
            per: per.ok_or(ParseRateError::UnknownUnit)?,
        })
    }
}

/// A number from 1 to [`Rate::MOST`].
fn parse_number(text: &str) -> Result<NonZeroU32, ParseRateError> {
    match text.parse::<u32>() {
        Ok(number) if number > Rate::MOST => Err(ParseRateError::TooLarge),
        Ok(number) => NonZeroU32::new(number).ok_or(ParseRateError::Zero),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(ParseRateError::TooLarge)
        }
        Err(_) => Err(ParseRateError::NotANumber),
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
