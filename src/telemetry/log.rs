//! The event log.

mod writer;

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, ParseError, filter_fn},
    fmt::layer,
    reload,
};

use self::writer::{LogWriter, WorkerGuard};
use super::{SPANS, StartError};
use crate::metrics::Metrics;

/// The `tracing` target of lines that no filter holds back.
pub(crate) const ALWAYS: &str = "descord_relay::always";

/// What is logged unless `RUST_LOG` says otherwise. The libraries below report much that strangers
/// cause, and with addresses: only their errors are of use.
const DEFAULT_FILTER: &str = "error,descord_relay=info";

/// How often the log tells of lines that were lost.
const LOST_INTERVAL: Duration = Duration::from_secs(60);
/// How often they are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Shape of the event log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// [`Text`](Self::Text) in a terminal, [`Json`](Self::Json) otherwise.
    #[default]
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

impl LogFormat {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Text, Self::Json];
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// The log, open. What still waits is written when this is dropped.
#[derive(Debug)]
pub(super) struct Log {
    _worker: WorkerGuard,
    writer: LogWriter,
    filter: FilterHandle,
}

/// Writes events to standard output, once the layer is part of the subscriber.
///
/// # Errors
/// When `filter` is not of the form that `RUST_LOG` takes, or there can be no thread that writes;
/// then nothing has been done.
pub(super) fn open(
    format: LogFormat,
    filter: Option<&str>,
) -> Result<(Log, impl Layer<Registry> + use<>), StartError> {
    let text = filter.filter(|f| !f.is_empty()).unwrap_or(DEFAULT_FILTER);
    let (filter, reload) = reload::Layer::new(EnvFilter::try_new(text)?);
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
    // The spans that are exported would be repeated in every line.
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

    /// Counts lost lines, and tells of them now and then, for ever.
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
                        warn!(
                            lines,
                            "lines of this log were lost: nobody read them in time"
                        );
                        reported = lost;
                    }
                }
            }
        }
    }
}

/// Says what is logged, and changes it.
#[derive(Clone, Debug)]
pub struct FilterHandle {
    text: Arc<Mutex<String>>,
    reload: reload::Handle<EnvFilter, Registry>,
}

impl FilterHandle {
    /// The filter that is in force, in the form of `RUST_LOG`.
    pub fn get(&self) -> String {
        self.text().clone()
    }

    /// Logs by this filter from now on. Empty stands for the default.
    ///
    /// # Errors
    /// When it is not of the form that `RUST_LOG` takes; then nothing changes.
    pub fn set(&self, filter: &str) -> Result<(), ParseError> {
        let filter = if filter.is_empty() {
            DEFAULT_FILTER
        } else {
            filter
        };
        let parsed = EnvFilter::try_new(filter)?;
        let mut text = self.text();
        // It fails only when the log is gone, and then nothing is to be filtered.
        if self.reload.reload(parsed).is_ok() {
            filter.clone_into(&mut text);
        }
        Ok(())
    }

    fn text(&self) -> std::sync::MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
