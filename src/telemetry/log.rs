//! The event log.

mod filter;
mod writer;

use std::{
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use named_enum::choice;
use named_enum::named_enum;
use tokio::time::Instant;
use tracing::warn;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt::layer,
    reload,
};

pub use self::filter::FilterError;
use self::writer::{LogWriter, WorkerGuard};
use super::{SPANS, StartError};
use crate::metrics::Metrics;

/// The `tracing` target of events that no filter drops.
pub(crate) const ALWAYS: &str = "descord_relay::always";

/// The default of `RUST_LOG`. Libraries log many events that remote peers cause, with addresses: only
/// their errors are of use.
const DEFAULT_FILTER: &str = "error,descord_relay=info";

/// Minimum interval between two log lines about lost lines.
const LOST_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which lost lines are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

named_enum! {
    /// Format of the event log.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub enum LogFormat {
        /// [`Text`](Self::Text) in a terminal, [`Json`](Self::Json) otherwise.
        #[default]
        Auto = "auto",
        /// One readable line per event.
        Text = "text",
        /// One JSON object per event.
        Json = "json",
    }
}

choice!(LogFormat);

/// The log. Queued lines are written when it is dropped.
#[derive(Debug)]
pub(super) struct Log {
    _worker: WorkerGuard,
    writer: LogWriter,
    filter: FilterHandle,
}

/// Creates a layer that writes events to standard output.
///
/// # Errors
/// When `filter` does not have the syntax of `RUST_LOG`, or the writer thread cannot be started; then
/// there is no effect.
pub(super) fn open(
    format: LogFormat,
    filter: Option<&str>,
) -> Result<(Log, impl Layer<Registry> + use<>), StartError> {
    let text = filter.filter(|f| !f.is_empty()).unwrap_or(DEFAULT_FILTER);
    let (filter, reload) = reload::Layer::new(filter::parse(text)?);
    let is_terminal = io::stdout().is_terminal();
    let (writer, worker) = writer::spawn(io::stdout()).map_err(StartError::Writer)?;
    let log = Log {
        _worker: worker,
        writer: writer.clone(),
        filter: FilterHandle {
            text: Arc::new(Mutex::new(text.to_owned())),
            reload,
        },
    };
    let lines = layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => lines.with_ansi(is_terminal).with_target(false).boxed(),
        LogFormat::Auto if is_terminal => lines.with_target(false).boxed(),
        LogFormat::Auto | LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Otherwise every line would repeat the exported spans.
    let is_ours = filter_fn(|metadata| metadata.target() != SPANS);
    let is_always = filter_fn(|metadata| metadata.target() == ALWAYS);
    let is_always = is_always.with_max_level_hint(LevelFilter::WARN);
    let filter = filter.or(is_always).and(is_ours);
    Ok((log, lines.with_filter(filter)))
}

impl Log {
    pub(super) fn filter(&self) -> FilterHandle {
        self.filter.clone()
    }

    /// Counts lost lines, and logs their number periodically. Never completes.
    pub(super) fn report_lost_lines(
        &self,
        metrics: Metrics,
    ) -> impl Future<Output = ()> + Send + 'static {
        let writer = self.writer.clone();
        async move {
            let (mut counted, mut reported) = (0, 0);
            let mut report_at = Instant::now() + LOST_INTERVAL;
            loop {
                tokio::time::sleep(COUNT_INTERVAL).await;
                let lost = writer.lost();
                metrics.lost("logs", lost - counted);
                counted = lost;
                if report_at <= Instant::now() {
                    report_at = Instant::now() + LOST_INTERVAL;
                    if lost > reported {
                        let lines = lost - reported;
                        warn!(lines, "log lines lost: the reader of the log is too slow");
                        reported = lost;
                    }
                }
            }
        }
    }
}

/// Reads and changes the log filter.
#[derive(Clone, Debug)]
pub struct FilterHandle {
    text: Arc<Mutex<String>>,
    reload: reload::Handle<EnvFilter, Registry>,
}

impl FilterHandle {
    /// The current filter, in the syntax of `RUST_LOG`.
    pub fn get(&self) -> String {
        self.text().clone()
    }

    /// Sets the filter; empty restores the default.
    ///
    /// # Errors
    /// When `filter` does not have the syntax of `RUST_LOG`; then nothing changes.
    pub fn set(&self, filter: &str) -> Result<(), FilterError> {
        let filter = if filter.is_empty() {
            DEFAULT_FILTER
        } else {
            filter
        };
        let parsed = filter::parse(filter)?;
        let mut text = self.text();
        // It fails only after the log was dropped.
        if self.reload.reload(parsed).is_ok() {
            filter.clone_into(&mut text);
        }
        Ok(())
    }

    fn text(&self) -> std::sync::MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
