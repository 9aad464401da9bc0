//! Formats of values: counts, sizes, durations, choices, names and secrets.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use named_enum::ParseChoiceError;
use resource_manager::size;
use transports::SwarmKey;

use super::{list, socket_address};
use crate::autonat::{ParseVersionError, Version, Versions};
use crate::identity;
use crate::secret::Secret;

/// Maximum duration, about 136 years: seconds are 32 bits wide on the wire.
const MAX_DURATION: Duration = Duration::from_secs(u32::MAX as u64);

/// Minimum length of a fleet seed, in characters. Shorter ones could be guessed from a peer id.
const SEED_MIN_CHARS: usize = 16;

/// Maximum length of an instance name, in characters: that of a host name.
const INSTANCE_MAX_CHARS: usize = 253;

/// The text format of a value.
pub(super) trait ValueFormat {
    /// The type of the value.
    type Value;

    /// The allowed values, in words that can follow `allowed: `.
    fn allowed(&self) -> String;

    /// Parses a text without surrounding whitespace. An error is the problem, in words that can follow
    /// the value: `"x" is not a whole number`.
    fn parse(&self, text: &str) -> Result<Self::Value, String>;

    /// Formats a value so that [`parse`](Self::parse) returns the same value.
    fn show(&self, value: &Self::Value) -> String;
}

/// A count; 0 = unlimited.
pub(super) struct Count;

impl ValueFormat for Count {
    type Value = Option<usize>;

    fn allowed(&self) -> String {
        "a whole number, 0 = unlimited".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        match text.parse() {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(count)),
            Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                Err("is too large".to_owned())
            }
            Err(_) => Err("is not a whole number".to_owned()),
        }
    }

    fn show(&self, value: &Self::Value) -> String {
        value.unwrap_or(0).to_string()
    }
}

/// A count up to a bound; 0 = off.
pub(super) struct CountUpTo(pub(super) usize);

impl ValueFormat for CountUpTo {
    type Value = usize;

    fn allowed(&self) -> String {
        format!("a whole number up to {}, 0 = off", self.0)
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        match Count.parse(text)?.unwrap_or(0) {
            count if count > self.0 => Err("is too large".to_owned()),
            count => Ok(count),
        }
    }

    fn show(&self, value: &Self::Value) -> String {
        value.to_string()
    }
}

/// A number of bytes; 0 = unlimited.
pub(super) struct Size;

impl ValueFormat for Size {
    type Value = Option<u64>;

    fn allowed(&self) -> String {
        "a size such as `100MB`, `64KiB` or plain bytes, 0 = unlimited".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        size::parse(text).map_err(|error| error.to_string())
    }

    fn show(&self, value: &Self::Value) -> String {
        size::format(value.unwrap_or(0))
    }
}

/// A size from 1 KB, or 0, which means `zero`. Smaller sizes lack a unit.
pub(super) struct SizeOrZero {
    pub(super) what: &'static str,
    pub(super) zero: &'static str,
}

impl ValueFormat for SizeOrZero {
    type Value = Option<u64>;

    fn allowed(&self) -> String {
        let Self { what, zero } = self;
        format!("{what} such as `10MB`, `512KiB` or plain bytes, from 1KB, 0 = {zero}")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        match Size.parse(text)? {
            Some(..bytesize::KB) => Err("is less than 1KB".to_owned()),
            size => Ok(size),
        }
    }

    fn show(&self, value: &Self::Value) -> String {
        Size.show(value)
    }
}

/// A duration of at least `min`.
pub(super) struct MinDuration {
    pub(super) min: Duration,
}

impl ValueFormat for MinDuration {
    type Value = Duration;

    fn allowed(&self) -> String {
        let min = if self.min.is_zero() {
            String::new()
        } else {
            format!(", at least {}", show_duration(self.min))
        };
        format!("a duration such as `90s` or `1h 30m`{min}")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let duration = parse_duration(text)?;
        if duration < self.min {
            return Err("is too short".to_owned());
        }
        Ok(duration)
    }

    fn show(&self, value: &Self::Value) -> String {
        show_duration(*value)
    }
}

/// A duration of at least a second, or 0, which means `zero`.
pub(super) struct DurationOrZero {
    pub(super) zero: &'static str,
}

impl DurationOrZero {
    const RANGE: MinDuration = MinDuration {
        min: Duration::from_secs(1),
    };
}

impl ValueFormat for DurationOrZero {
    type Value = Option<Duration>;

    fn allowed(&self) -> String {
        format!("{}, 0 = {}", Self::RANGE.allowed(), self.zero)
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if parse_duration(text)?.is_zero() {
            return Ok(None);
        }
        Self::RANGE.parse(text).map(Some)
    }

    fn show(&self, value: &Self::Value) -> String {
        value.map_or_else(|| "0".to_owned(), show_duration)
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("has no unit; add one, such as s, m or h".to_owned());
    }
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("is not a duration ({error})"))?;
    if duration > MAX_DURATION {
        return Err("is longer than 136 years".to_owned());
    }
    Ok(duration)
}

/// `1h30m`: without spaces, which shells and env files treat differently.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace(' ', "")
}

/// One of a few values, formatted by `Display`.
pub(super) struct Choice<T: 'static>(pub(super) &'static [T]);

impl<T: Display + FromStr<Err = ParseChoiceError>> ValueFormat for Choice<T> {
    type Value = T;

    fn allowed(&self) -> String {
        let choices: Vec<_> = self.0.iter().map(|value| format!("`{value}`")).collect();
        choices.join(" or ")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        text.parse()
            .map_err(|error: ParseChoiceError| error.to_string())
    }

    fn show(&self, value: &Self::Value) -> String {
        value.to_string()
    }
}

/// Versions of `AutoNAT`.
pub(super) struct AutonatVersions;

impl ValueFormat for AutonatVersions {
    type Value = Versions;

    fn allowed(&self) -> String {
        let names: Vec<_> = Version::NAMES
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        format!("a list of {}; empty or `none` = off", names.join(" and "))
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text.is_empty() || text.eq_ignore_ascii_case("none") {
            return Ok(Versions::NONE);
        }
        let parse = |item: &str| {
            item.parse()
                .map_err(|error: ParseVersionError| error.to_string())
        };
        let versions = list::parse_list(text, Version::ALL.len(), parse)?;
        Ok(versions.into_iter().collect())
    }

    fn show(&self, value: &Self::Value) -> String {
        list::join(value.iter().map(Version::as_str))
    }
}

/// A socket address, or none.
pub(super) struct OptionalSocketAddress;

impl ValueFormat for OptionalSocketAddress {
    type Value = Option<SocketAddr>;

    fn allowed(&self) -> String {
        "an IP address and a port such as `127.0.0.1:8080` or `[::]:8080`, empty = off".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text.is_empty() {
            return Ok(None);
        }
        socket_address::parse(text).map(Some)
    }

    fn show(&self, value: &Self::Value) -> String {
        value.map_or_else(String::new, |address| address.to_string())
    }
}

/// The instance name of a relay.
pub(super) struct InstanceName;

impl ValueFormat for InstanceName {
    type Value = String;

    fn allowed(&self) -> String {
        format!("1 to {INSTANCE_MAX_CHARS} of the characters A-Z a-z 0-9 . _ -")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !text.bytes().all(allowed) {
            return Err("has a character that is not allowed".to_owned());
        }
        match text.len() {
            0 => Err("is empty".to_owned()),
            1..=INSTANCE_MAX_CHARS => Ok(text.to_owned()),
            _ => Err("is too long".to_owned()),
        }
    }

    fn show(&self, value: &Self::Value) -> String {
        value.clone()
    }
}

/// The seed of a fleet.
pub(super) struct Seed;

impl ValueFormat for Seed {
    type Value = Option<Secret>;

    fn allowed(&self) -> String {
        format!("at least {SEED_MIN_CHARS} characters, as `descord-relay identity generate` makes")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text.chars().count() < SEED_MIN_CHARS {
            return Err("is too short".to_owned());
        }
        Ok(Some(Secret::new(text)))
    }

    fn show(&self, value: &Self::Value) -> String {
        mask(value.as_ref())
    }
}

/// A private key.
pub(super) struct PrivateKey;

impl ValueFormat for PrivateKey {
    type Value = Option<Secret>;

    fn allowed(&self) -> String {
        "base64 of an Ed25519 or secp256k1 private key in libp2p's protobuf form".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let key = Secret::new(text);
        identity::decode_key(&key).map_err(|error| error.to_string())?;
        Ok(Some(key))
    }

    fn show(&self, value: &Self::Value) -> String {
        mask(value.as_ref())
    }
}

/// The content of a `swarm.key` file.
pub(super) struct SwarmKeyFile;

impl ValueFormat for SwarmKeyFile {
    type Value = Option<SwarmKey>;

    fn allowed(&self) -> String {
        "the content of a `swarm.key` file: the line `/key/swarm/psk/1.0.0/`, a line with the \
         encoding (`/base16/`, `/base64/` or `/bin/`), and 32 bytes"
            .to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        SwarmKey::parse(text.as_bytes())
            .map(Some)
            .map_err(|error| error.to_string())
    }

    fn show(&self, value: &Self::Value) -> String {
        value.as_ref().map_or_else(String::new, SwarmKey::to_string)
    }
}

pub(super) fn mask(secret: Option<&Secret>) -> String {
    secret.map_or_else(String::new, Secret::to_string)
}
