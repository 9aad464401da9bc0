//! Values that are written as one of a few words.

use std::fmt::Display;

/// The text is none of the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not one of the choices")]
pub struct ParseChoiceError;

/// The value of `choices` whose `Display` is `text`, in upper or lower case.
pub(crate) fn parse<T: Copy + Display>(choices: &[T], text: &str) -> Result<T, ParseChoiceError> {
    let is_meant = |value: &&T| value.to_string().eq_ignore_ascii_case(text);
    let value = choices.iter().find(is_meant).copied();
    value.ok_or(ParseChoiceError)
}
