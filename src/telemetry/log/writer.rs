//! Lines on their way to standard output, written by a thread of its own.
//!
//! Waking a thread costs more than to make a line. So it is woken for the first line alone, lets
//! more of them gather for a moment, and writes them at once.

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

/// Lines that may wait. When whoever reads them stops, further lines are lost: a log that is not
/// read must not hold up the relay.
const MAX_WAITING_LINES: usize = 16 * 1024;
/// How long lines gather before they are written.
const GATHER: Duration = Duration::from_millis(10);
/// How long the end waits for whoever reads the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);
/// A buffer of more bytes is not kept for the next lines.
const KEPT_BYTES: usize = 64 * 1024;

/// Takes lines. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// The thread is to look: at the first line, or at the end.
    look: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: usize,
    ended: bool,
}

/// The thread that writes. What still waits is written when this is dropped, if it is read soon.
#[derive(Debug)]
pub(super) struct Writing {
    shared: Arc<Shared>,
    ended: mpsc::Receiver<()>,
}

/// Writes lines to `output` from now on.
///
/// # Errors
/// When the system has no thread left.
pub(super) fn start(mut output: impl Write + Send + 'static) -> io::Result<(Lines, Writing)> {
    let shared = Arc::new(Shared::default());
    let (end, ended) = mpsc::channel();
    let lines = Lines(Arc::clone(&shared));
    let writing = Writing {
        shared: Arc::clone(&shared),
        ended,
    };
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            shared.write_all(&mut output);
            // Nobody may wait for it any more.
            let _ = end.send(());
        })?;
    Ok((lines, writing))
}

impl Lines {
    /// Lines that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Each call brings one line.
impl Write for &Lines {
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
            let mut waiting = self.waiting();
            if waiting.lines >= MAX_WAITING_LINES {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            waiting.bytes.extend_from_slice(line);
            waiting.lines += 1;
            waiting.lines == 1
        };
        // Whoever has been woken already finds the others.
        if is_first {
            self.look.notify_one();
        }
    }

    /// Writes all lines, until the end.
    fn write_all(&self, output: &mut impl Write) {
        let mut bytes = Vec::new();
        loop {
            let nothing = |waiting: &mut Waiting| waiting.lines == 0 && !waiting.ended;
            let waiting = self.look.wait_while(self.waiting(), nothing);
            let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            let is_open = |waiting: &mut Waiting| !waiting.ended;
            let gathered = self.look.wait_timeout_while(waiting, GATHER, is_open);
            let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut waiting.bytes, &mut bytes);
            let lines = mem::take(&mut waiting.lines);
            let is_end = waiting.ended;
            drop(waiting);
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
            bytes.shrink_to(KEPT_BYTES);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.shared.waiting().ended = true;
        self.shared.look.notify_one();
        // Nobody may read.
        let _ = self.ended.recv_timeout(LAST_LINES);
    }
}

#[cfg(test)]
mod tests;
