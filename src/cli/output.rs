//! Output to standard output and standard error, which may be a closed pipe or a file on a full disk.
//! `print!` and `eprintln!` would panic then.

use std::{
    fmt::Display,
    io::{self, ErrorKind, IsTerminal as _, Write},
    process::ExitCode,
};

/// Exit code when the reader has closed standard output: that of a process ended by SIGPIPE in a shell
/// (128 + 13).
const EX_CLOSED_PIPE: u8 = 141;

/// Prints `text` to standard output. The exit code is a failure if that fails. The error is printed to
/// standard error, unless the reader has closed the pipe.
pub(super) fn print(text: impl Display) -> ExitCode {
    let mut out = io::stdout().lock();
    exit_code(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Whether standard output is a terminal.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Same as [`print()`], for a text with styles. They are removed unless standard output is a terminal
/// with colours, and if `NO_COLOR` is set.
pub(super) fn print_styled(text: impl Display) -> ExitCode {
    let mut out = anstream::stdout().lock();
    exit_code(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Same as [`print()`], with a line break at the end.
pub(super) fn print_line(text: impl Display) -> ExitCode {
    print(format_args!("{text}\n"))
}

/// The exit code of a command with this result of writing its output.
pub(super) fn exit_code(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => EX_CLOSED_PIPE.into(),
        Err(error) => {
            report(format_args!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints `message` and a line break to standard error, and ignores errors.
pub(super) fn report(message: impl Display) {
    let _ = writeln!(io::stderr(), "{message}");
}
