//! Writes reports as text or JSON.

use std::{
    io::{self, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Style};

use super::report::Report;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Yellow.on_default();
const DETAIL: Style = Style::new().dimmed();

/// Width of the progress line, which is overwritten by spaces: not all terminals can erase a line.
const PROGRESS_WIDTH: usize = 60;

/// The format of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text with colours: a block for each relay, and a summary.
    Text,
    /// The same, with a progress line until the next block.
    Live,
    /// One JSON object per relay, one per line.
    Json,
}

/// Writes progress and results.
pub(super) struct Printer<'a, W> {
    pub(super) format: Format,
    pub(super) out: &'a mut W,
}

impl<W: Write> Printer<'_, W> {
    /// Whether there is a progress line.
    pub(super) fn is_live(&self) -> bool {
        self.format == Format::Live
    }

    /// Overwrites the progress line.
    pub(super) fn progress(
        &mut self,
        done: usize,
        total: Option<usize>,
        elapsed: Duration,
    ) -> io::Result<()> {
        let seconds = elapsed.as_secs();
        let line = match total {
            None => format!("… resolving names, {seconds} s"),
            Some(total) => format!("… {done} of {total} addresses done, {seconds} s"),
        };
        write!(self.out, "\r{DETAIL}{line:<PROGRESS_WIDTH$}{DETAIL:#}")?;
        self.out.flush()
    }

    /// Erases the progress line.
    fn erase_progress(&mut self) -> io::Result<()> {
        if self.is_live() {
            write!(self.out, "\r{:PROGRESS_WIDTH$}\r", "")?;
        }
        Ok(())
    }

    /// Writes the result of one address.
    pub(super) fn report(&mut self, report: &Report) -> io::Result<()> {
        if self.format == Format::Json {
            serde_json::to_writer(&mut *self.out, report)?;
            return writeln!(self.out);
        }
        self.erase_progress()?;
        let out = &mut *self.out;
        writeln!(out, "{}", report.address)?;
        for &step in &report.succeeded {
            let line = report.step_line(step);
            writeln!(out, "  {GOOD}✓{GOOD:#} {step:<10}  {}", line.trim_end())?;
        }
        if let Some(step) = report.failed_step {
            let error = report.error.as_deref().unwrap_or_default();
            writeln!(
                out,
                "  {BAD}✗{BAD:#} {step:<10}  {BAD}failed:{BAD:#} {error}"
            )?;
        }
        if let Some(hint) = &report.hint {
            writeln!(out, "    {:<10}  {HINT}hint:{HINT:#} {hint}", "")?;
        }
        Ok(())
    }

    /// Writes the end of all probes: how many addresses work, and which do not.
    pub(super) fn summary(&mut self, reports: &[Report]) -> io::Result<()> {
        if self.format == Format::Json {
            return Ok(());
        }
        self.erase_progress()?;
        let (total, ok) = (reports.len(), reports.iter().filter(|r| r.ok).count());
        let (style, mark) = if ok == total {
            (GOOD, "✓")
        } else {
            (BAD, "✗")
        };
        let out = &mut *self.out;
        writeln!(
            out,
            "{style}{mark}{style:#} {ok} of {total} addresses relay"
        )?;
        if total > 1 {
            for report in reports {
                if let Some(step) = report.failed_step {
                    writeln!(out, "  {BAD}✗{BAD:#} {}: {step}", report.address)?;
                }
            }
        }
        out.flush()
    }
}
