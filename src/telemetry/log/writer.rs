//! A non-blocking log writer: a thread writes queued lines to standard output.
//!
//! Waking a thread costs more than formatting a line. The thread is woken for the first line only,
//! waits a moment for more of them, and writes them in one batch.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Maximum number of queued lines. If the reader stops, further lines are lost: the relay never waits
/// for the reader of its log.
const MAX_QUEUED_LINES: usize = 16 * 1024;
/// How long lines are collected before they are written.
const BATCH_DELAY: Duration = Duration::from_millis(10);
/// Deadline of writing the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum capacity of the buffer that is kept for the next batch.
const MAX_IDLE_BUFFER_BYTES: usize = 64 * 1024;

/// Queues lines. Clones share the same state.
#[derive(Clone, Debug)]
pub(super) struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<LineQueue>,
    /// Notified at the first line, and at the end.
    ready: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct LineQueue {
    bytes: Vec<u8>,
    lines: usize,
    ended: bool,
}

/// The handle of the writer thread. When dropped, it waits until queued lines are written, within
/// [`FLUSH_TIMEOUT`].
#[derive(Debug)]
pub(super) struct WorkerGuard {
    shared: Arc<Shared>,
    ended: mpsc::Receiver<()>,
}

/// Starts a thread that writes lines to `output`.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn spawn(
    mut output: impl Write + Send + 'static,
) -> io::Result<(LogWriter, WorkerGuard)> {
    let shared = Arc::new(Shared::default());
    let (end, ended) = mpsc::channel();
    let writer = LogWriter(Arc::clone(&shared));
    let guard = WorkerGuard {
        shared: Arc::clone(&shared),
        ended,
    };
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            shared.write_all(&mut output);
            // The guard may have timed out.
            let _ = end.send(());
        })?;
    Ok((writer, guard))
}

impl LogWriter {
    /// Number of lost lines.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Each call writes one line.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn push(&self, line: &[u8]) {
        let is_first = {
            let mut queue = self.queue();
            if queue.lines >= MAX_QUEUED_LINES {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            queue.bytes.extend_from_slice(line);
            queue.lines += 1;
            queue.lines == 1
        };
        // For further lines, the thread has been woken already.
        if is_first {
            self.ready.notify_one();
        }
    }

    /// Writes lines until the end.
    fn write_all(&self, output: &mut impl Write) {
        let mut bytes = Vec::new();
        loop {
            let nothing = |queue: &mut LineQueue| queue.lines == 0 && !queue.ended;
            let queue = self.ready.wait_while(self.queue(), nothing);
            let queue = queue.unwrap_or_else(PoisonError::into_inner);
            let is_open = |queue: &mut LineQueue| !queue.ended;
            let gathered = self.ready.wait_timeout_while(queue, BATCH_DELAY, is_open);
            let (mut queue, _) = gathered.unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut queue.bytes, &mut bytes);
            let lines = mem::take(&mut queue.lines);
            let is_end = queue.ended;
            drop(queue);
            if output
                .write_all(&bytes)
                .and_then(|()| output.flush())
                .is_err()
            {
                self.lost.fetch_add(lines as u64, Ordering::Relaxed);
            }
            if is_end {
                return;
            }
            bytes.clear();
            bytes.shrink_to(MAX_IDLE_BUFFER_BYTES);
        }
    }

    fn queue(&self) -> MutexGuard<'_, LineQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WorkerGuard {
    fn drop(&mut self) {
        self.shared.queue().ended = true;
        self.shared.ready.notify_one();
        // The reader may have stopped.
        let _ = self.ended.recv_timeout(FLUSH_TIMEOUT);
    }
}

#[cfg(test)]
mod tests;
