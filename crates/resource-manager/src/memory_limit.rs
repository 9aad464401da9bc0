//! The setting for how much memory the relay may use.

use std::{fmt, str::FromStr};

use crate::size::{self, ParseSizeError};

/// The text of [`MemoryLimit::Auto`].
const AUTO: &str = "auto";

/// Minimum limit, in bytes. The process needs as much; smaller values lack a unit.
const MIN_BYTES: u64 = 16 * bytesize::MIB;

/// How much memory the relay may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The smallest memory limit of the process's control groups, or else the machine's memory.
    #[default]
    Auto,
    /// A fixed number of bytes.
    Bytes(u64),
    /// No limit.
    Unlimited,
}

/// Why a text is not a [`MemoryLimit`]. `Display` gives words that can follow the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseMemoryLimitError {
    /// The text is neither `auto` nor a size.
    #[error(transparent)]
    Size(#[from] ParseSizeError),
    /// The process needs more memory.
    #[error("is less than 16MiB")]
    TooSmall,
}

/// `auto`, or a size such as `512MiB`; 0 is unlimited.
impl FromStr for MemoryLimit {
    type Err = ParseMemoryLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case(AUTO) {
            return Ok(Self::Auto);
        }
        match size::parse(text)? {
            Some(..MIN_BYTES) => Err(ParseMemoryLimitError::TooSmall),
            Some(bytes) => Ok(Self::Bytes(bytes)),
            None => Ok(Self::Unlimited),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str(AUTO),
            Self::Bytes(bytes) => f.write_str(&size::format(*bytes)),
            Self::Unlimited => f.write_str("0"),
        }
    }
}
