//! Sizes in bytes, as text.

use bytesize::ByteSize;

/// Why a text is not a size. `Display` gives words that can follow the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    /// The text is not a number with an optional unit.
    #[error("is not a size")]
    Malformed,
    /// The size does not fit into 64 bits.
    #[error("is too large")]
    TooLarge,
    /// The size is a fraction of a byte.
    #[error("is less than one byte")]
    Fraction,
}

/// Parses a size such as `100MB`, `64KiB` or plain bytes; `None` for 0.
pub fn parse(text: &str) -> Result<Option<u64>, ParseSizeError> {
    let size = text
        .parse::<ByteSize>()
        .map_err(|_| ParseSizeError::Malformed)?;
    match size.as_u64() {
        // Larger sizes saturate, which must not set a limit that differs from the text.
        u64::MAX => Err(ParseSizeError::TooLarge),
        // A fraction of a byte must not mean "unlimited".
        0 if text.contains(|c| matches!(c, '1'..='9')) => Err(ParseSizeError::Fraction),
        0 => Ok(None),
        bytes => Ok(Some(bytes)),
    }
}

/// Formats a size so that [`parse`] returns the same value: the shortest exact text, such as `100MB`,
/// `64KiB` or `1500`.
pub fn format(bytes: u64) -> String {
    const UNITS: [(&str, u64); 9] = [
        ("KB", bytesize::KB),
        ("KiB", bytesize::KIB),
        ("MB", bytesize::MB),
        ("MiB", bytesize::MIB),
        ("GB", bytesize::GB),
        ("GiB", bytesize::GIB),
        ("TB", bytesize::TB),
        ("TiB", bytesize::TIB),
        ("", 1),
    ];
    UNITS
        .iter()
        .filter(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map(|(name, unit)| format!("{}{name}", bytes / unit))
        .min_by_key(String::len)
        .unwrap_or_else(|| bytes.to_string())
}
