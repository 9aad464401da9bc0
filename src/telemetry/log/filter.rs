//! The filter of the log, in the syntax of `RUST_LOG`.

use tracing_subscriber::{EnvFilter, filter::ParseError};

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

/// Parses `filter`. A directive for the whole program, such as `descord_relay=debug`, also applies to
/// the crates of which it consists.
///
/// # Errors
/// When `filter` does not have the syntax of `RUST_LOG`.
pub(super) fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    let mut directives = Vec::new();
    for directive in filter.split(',') {
        let level = directive.trim().strip_prefix(PROGRAM);
        if let Some(level) = level.filter(|level| level.is_empty() || level.starts_with('=')) {
            directives.extend(CRATES.map(|name| format!("{name}{level}")));
        }
    }
    // A later directive for one of the crates replaces these.
    directives.push(filter.to_owned());
    EnvFilter::try_new(directives.join(","))
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
}
