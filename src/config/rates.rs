//! What the relay is told of newcomers and floods: rates, the memory that there is, and the proxies
//! that it believes.

use std::num::NonZeroU32;

use ipnet::IpNet;

use super::MemoryLimit;
use super::fleet::{join, list};
use super::kind::{Count, Kind, Size};
use crate::access::Entry;
use crate::rate::{Rate, Unit};

/// The most networks of proxies.
const MAX_PROXIES: usize = 64;

/// So many at once, and so many more in each while; 0 = unlimited.
pub(super) struct BurstAndRate;

impl Kind for BurstAndRate {
    type Value = Option<Rate>;

    fn allowed(&self) -> String {
        format!(
            "a burst and a rate such as `500+20/s` (500 at once, and 20 more each second; also `/m` \
             and `/h`), numbers up to {}, 0 = unlimited",
            Rate::MOST
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text == "0" {
            return Ok(None);
        }
        let no_rate = || "is not a burst and a rate".to_owned();
        let (burst, rest) = text.split_once('+').ok_or_else(no_rate)?;
        let (refill, unit) = rest.split_once('/').ok_or_else(no_rate)?;
        let number = |text: &str| -> Result<NonZeroU32, String> {
            let count = Count
                .parse(text.trim())
                .map_err(|what| format!("has a part that {what}"))?;
            let number = count.and_then(|count| NonZeroU32::new(u32::try_from(count).ok()?));
            match number {
                Some(number) if number.get() <= Rate::MOST => Ok(number),
                None if count.is_none() => Err("has a part that is 0".to_owned()),
                _ => Err("has a part that is too large".to_owned()),
            }
        };
        let is_unit = |known: &&Unit| unit.trim().chars().eq([known.letter()]);
        let unit = Unit::ALL.iter().find(is_unit);
        Ok(Some(Rate {
            burst: number(burst)?,
            refill: number(refill)?,
            per: *unit.ok_or_else(|| "has a unit other than s, m and h".to_owned())?,
        }))
    }

    fn show(&self, value: &Self::Value) -> String {
        value.map_or_else(|| "0".to_owned(), |rate| rate.to_string())
    }
}

/// Bytes of memory, or as many as there are.
pub(super) struct Memory;

/// The word for as many as there are.
const AUTO: &str = "auto";

impl Memory {
    /// The process alone needs as much. Less is a unit that was forgotten.
    const LEAST: u64 = 16 * bytesize::MIB;
}

impl Kind for Memory {
    type Value = MemoryLimit;

    fn allowed(&self) -> String {
        "`auto`, or a size such as `512MiB` from 16MiB on, 0 = unlimited".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text.eq_ignore_ascii_case(AUTO) {
            return Ok(MemoryLimit::Auto);
        }
        match Size.parse(text)? {
            Some(bytes) if bytes < Self::LEAST => Err("is less than 16MiB".to_owned()),
            Some(bytes) => Ok(MemoryLimit::Bytes(bytes)),
            None => Ok(MemoryLimit::Unlimited),
        }
    }

    fn show(&self, value: &Self::Value) -> String {
        match value {
            MemoryLimit::Auto => AUTO.to_owned(),
            MemoryLimit::Bytes(bytes) => Size.show(&Some(*bytes)),
            MemoryLimit::Unlimited => Size.show(&None),
        }
    }
}

/// Networks, or none.
pub(super) struct Networks;

impl Kind for Networks {
    type Value = Vec<IpNet>;

    fn allowed(&self) -> String {
        format!(
            "a comma-separated list of at most {MAX_PROXIES} IP addresses and networks such as \
             `10.0.0.0/8`"
        )
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        list(text, MAX_PROXIES, |item| match item.parse()? {
            Entry::Network(network) => Ok(network),
            Entry::Peer(_) | Entry::None => Err("is not a network".to_owned()),
        })
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}
