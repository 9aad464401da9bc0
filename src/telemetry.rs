//! What the relay tells its operator: the event log.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use tracing::warn;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged unless `RUST_LOG` says otherwise. The libraries below report much that strangers
/// cause, and with addresses: only their errors are of use.
const DEFAULT_FILTER: &str = "error,descord_relay=info";

/// Lines that may wait for standard output. When whoever reads it stops, further lines are lost:
/// a log that is not read must not hold up the relay.
const MAX_WAITING_LINES: usize = 16 * 1024;
/// How often the log tells of lines that were lost.
const LOST_INTERVAL: Duration = Duration::from_secs(60);

/// Writes events to standard output from now on. `filter` is the value of `RUST_LOG`, if it is
/// set. What still waits is written when the guard is dropped.
///
/// # Errors
/// When `filter` is not of the form that `RUST_LOG` takes, or when this has been called before.
pub fn init(
    format: LogFormat,
    filter: Option<&str>,
) -> Result<(WorkerGuard, Lost), Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_new(filter.filter(|f| !f.is_empty()).unwrap_or(DEFAULT_FILTER))?;
    let is_terminal = io::stdout().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_WAITING_LINES)
        .finish(io::stdout());
    let lost = Lost(writer.error_counter());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        LogFormat::Text => log.with_ansi(is_terminal).with_target(false).try_init(),
        LogFormat::Auto if is_terminal => log.with_target(false).try_init(),
        LogFormat::Auto | LogFormat::Json => log.json().flatten_event(true).try_init(),
    }?;
    Ok((guard, lost))
}

/// Counts the lines that were lost.
#[derive(Debug)]
pub struct Lost(ErrorCounter);

impl Lost {
    /// Tells of lost lines, now and then.
    pub async fn tell(self) {
        let mut told = 0;
        loop {
            tokio::time::sleep(LOST_INTERVAL).await;
            let lost = self.0.dropped_lines();
            if lost > told {
                warn!(
                    lines = lost - told,
                    "lines of this log were lost: nobody read them in time"
                );
                told = lost;
            }
        }
    }
}
