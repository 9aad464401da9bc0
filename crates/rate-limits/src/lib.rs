//! Rate limits for many keys, such as peers and IP addresses, in bounded memory.
//!
//! A [`Rate`] has a burst and a refill: over any interval of *t*, at most `burst + refill × t /
//! per` are allowed. A [`Limiter`] applies one rate to each key separately. The callers define the
//! keys: for example the IP addresses of connections, or the peers that send requests. A
//! [`LogThrottle`] limits log lines about refusals.
//!
//! The algorithm (GCRA) is that of the `governor` crate. Its own keyed stores keep the state of
//! every key until they are swept, but peer ids are free and an attacker may control billions of
//! networks. A [`Limiter`] therefore keeps the state of at most [`MAX_KEYS`] keys.

mod limiter;
mod log_throttle;
mod state_store;
#[cfg(test)]
mod tests;

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

pub use self::{limiter::Limiter, log_throttle::LogThrottle, state_store::MAX_KEYS};

/// A burst and a refill rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Size of the burst, from 1 to [`Self::MAX`].
    pub burst: NonZeroU32,
    /// Number of refills in each [`Self::per`], from 1 to [`Self::MAX`].
    pub refill: NonZeroU32,
    /// Unit of time of the refill.
    pub per: Unit,
}

/// Unit of time of a [`Rate`].
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
    /// Maximum of the burst and of the refill. Larger values would not limit anything.
    pub const MAX: u32 = 1_000_000;

    /// A constant rate. Both numbers are raised to at least 1.
    pub const fn fixed(burst: u32, refill: u32, per: Unit) -> Self {
        Self {
            burst: at_least_one(burst),
            refill: at_least_one(refill),
            per,
        }
    }

    /// Time for one refill, rounded up so that the rate is never exceeded.
    fn interval(self) -> Duration {
        let nanos = u64::try_from(self.per.duration().as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos.div_ceil(self.refill.get().into()))
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(number.saturating_sub(1))
}

/// `500+20/s` is a burst of 500, and 20 more each second.
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
    /// The burst or the refill is larger than [`Rate::MAX`].
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

/// A number from 1 to [`Rate::MAX`].
fn parse_number(text: &str) -> Result<NonZeroU32, ParseRateError> {
    match text.parse::<u32>() {
        Ok(number) if number > Rate::MAX => Err(ParseRateError::TooLarge),
        Ok(number) => NonZeroU32::new(number).ok_or(ParseRateError::Zero),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(ParseRateError::TooLarge)
        }
        Err(_) => Err(ParseRateError::NotANumber),
    }
}

impl Unit {
    /// All variants.
    pub const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    /// The letter in the text form.
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
