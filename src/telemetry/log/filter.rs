//! The syntax of log filters, with errors that name the invalid directive.

use std::fmt;

use tracing_subscriber::{
    EnvFilter,
    filter::{Directive, ParseError},
};

/// The target of the binary's events, and so the name of the program in filters.
const PROGRAM: &str = "descord_relay";

/// Other crates of this project that log.
const CRATES: [&str; 5] = [
    "fleet_dns",
    "lifecycle",
    "rate_limits",
    "resource_manager",
    "transports",
];

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

/// Parses a filter in the syntax of `RUST_LOG`. A directive for the whole program, such as
/// `descord_relay=debug`, also applies to the crates of which it consists.
///
/// # Errors
/// The first directive that is invalid.
pub(super) fn parse(text: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::try_new(with_crates(text)).map_err(|cause| {
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

/// Adds the directives for the crates. A later directive for one of them replaces these.
fn with_crates(text: &str) -> String {
    let mut directives = Vec::new();
    for directive in text.split(',') {
        let level = directive.trim().strip_prefix(PROGRAM);
        if let Some(level) = level.filter(|level| level.is_empty() || level.starts_with('=')) {
            directives.extend(CRATES.map(|name| format!("{name}{level}")));
        }
    }
    directives.push(text.to_owned());
    directives.join(",")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn directive_for_the_program_applies_to_its_crates() {
        let shown = |filter| parse(filter).unwrap().to_string();
        let all = shown("error,descord_relay=debug");
        for name in CRATES.iter().chain([&PROGRAM]) {
            assert!(all.contains(&format!("{name}=debug")), "{all}");
        }
        let one = shown("descord_relay=info,transports=trace");
        assert!(
            one.contains("transports=trace") && !one.contains("transports=info"),
            "{one}"
        );
        let module = shown("descord_relay::node=debug");
        assert!(!module.contains("transports"), "{module}");
        parse("descord_relay=loud").unwrap_err();
    }

    #[test]
    fn every_crate_that_logs_is_listed() {
        let crates = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates")).unwrap();
        let mut logging: Vec<_> = crates
            .map(|entry| entry.unwrap())
            .filter(|entry| {
                let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap();
                manifest.contains("\ntracing.workspace")
            })
            .map(|entry| entry.file_name().into_string().unwrap().replace('-', "_"))
            .collect();
        logging.sort();
        assert_eq!(logging, CRATES);
    }

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
