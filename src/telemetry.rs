//! What the relay tells its operator: the event log.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged unless `RUST_LOG` says otherwise. The libraries below report much that strangers
/// cause, and with addresses: only their errors are of use.
const DEFAULT_FILTER: &str = "error,descord_relay=info";

/// Writes events to standard output from now on. `filter` is the value of `RUST_LOG`, if it is
/// set.
///
/// # Errors
/// When `filter` is not of the form that `RUST_LOG` takes, or when this has been called before.
pub fn init(
    format: LogFormat,
    filter: Option<&str>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_new(filter.filter(|f| !f.is_empty()).unwrap_or(DEFAULT_FILTER))?;
    let is_terminal = io::stdout().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stdout);
    match format {
        LogFormat::Text => log.with_ansi(is_terminal).with_target(false).try_init(),
        LogFormat::Auto if is_terminal => log.with_target(false).try_init(),
        LogFormat::Auto | LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
}
