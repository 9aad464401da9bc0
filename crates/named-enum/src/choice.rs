//! Values that are written as one of a few words.

/// The text is none of the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not one of the choices")]
pub struct ParseChoiceError;

/// Implements `Display` and `FromStr` for a [named enum](crate::named_enum!). Upper and lower case are
/// parsed alike.
#[macro_export]
macro_rules! choice {
    ($type_name:ident) => {
        impl std::fmt::Display for $type_name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type_name {
            type Err = $crate::ParseChoiceError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let is_meant = |value: &&Self| value.as_str().eq_ignore_ascii_case(text);
                let value = Self::ALL.iter().find(is_meant).copied();
                value.ok_or($crate::ParseChoiceError)
            }
        }
    };
}
