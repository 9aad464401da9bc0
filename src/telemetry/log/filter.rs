//! The syntax of log filters, with errors that name the invalid directive.

use std::fmt;

use tracing_subscriber::{
    EnvFilter,
    filter::{Directive, ParseError},
};

/// Longer directives are cut in messages, in characters.
const MAX_SHOWN: usize = 100;

/// Why a text is not a log filter. `Display` gives one line: the directive, the problem, and what is
/// allowed.
#[derive(Debug)]
pub struct FilterError {
    directive: String,
    cause: ParseError,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.directive.chars().take(MAX_SHOWN).collect();
        write!(
            f,
            "{shown:?} is not a directive ({}); allowed: a comma-separated list of levels (`error`, \
             `warn`, `info`, `debug`, `trace`, `off`) and `module=level`, such as \
             `error,descord_relay=debug`",
            self.cause
        )
    }
}

impl std::error::Error for FilterError {}

/// Parses a filter in the syntax of `RUST_LOG`.
///
/// # Errors
/// The first directive that is invalid.
pub(super) fn parse(text: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::try_new(text).map_err(|cause| {
        let invalid = text.split(',').find_map(|directive| {
            let cause = directive.parse::<Directive>().err()?;
            Some(FilterError {
                directive: directive.to_owned(),
                cause,
            })
        });
        invalid.unwrap_or_else(|| FilterError {
            directive: text.to_owned(),
            cause,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_the_invalid_directive() {
        for (text, directive) in [
            ("no=such=level", "\"no=such=level\""),
            ("info,descord_relay=loud", "\"descord_relay=loud\""),
            ("warn,a=b=c,d=e=f", "\"a=b=c\""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(directive), "{error}");
            assert!(error.contains("allowed: "), "{error}");
        }
        for text in ["info", "error,descord_relay=debug", "off", ""] {
            assert!(parse(text).is_ok(), "{text}");
        }
        let long = parse(&"=".repeat(10_000)).unwrap_err().to_string();
        assert!(long.len() < 1000, "{long}");
    }
}
