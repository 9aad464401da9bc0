//! Enums whose variants have stable names, and values that are written as one of a few words.

mod choice;

pub use self::choice::ParseChoiceError;

/// Defines an enum together with the stable name of each variant, which logs, metrics and the
/// metric catalogue share.
#[macro_export]
macro_rules! named_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $type_name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $name:literal,)+
        }
    ) => {
        $(#[$meta])*
        $vis enum $type_name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $type_name {
            /// All variants, in the order of their declaration.
            pub const ALL: [Self; Self::NAMES.len()] = [$(Self::$variant),+];
            /// Names of all variants, in the same order.
            pub const NAMES: [&str; [$($name),+].len()] = [$($name),+];

            /// A short, stable name for logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}
