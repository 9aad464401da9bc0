//! Printing to standard output and standard error, both of which may be a closed pipe or a file on a
//! full disk. `print!` and `eprintln!` panic then.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

/// The reader of standard output has closed it. Shells report the same code for tools that SIGPIPE
/// ends (128 + 13).
const EX_CLOSED_PIPE: u8 = 141;

/// Prints `text` to standard output. The exit code is a failure if it cannot be written: without a
/// word when the reader has closed the pipe, as it wants no more, and otherwise with the cause on
/// standard error.
pub(super) fn print(text: impl Display) -> ExitCode {
    let mut out = io::stdout().lock();
    exit_code(write!(out, "{text}").and_then(|()| out.flush()))
}

/// The same with a line break at the end.
pub(super) fn print_line(text: impl Display) -> ExitCode {
    print(format_args!("{text}\n"))
}

/// The exit code of a command whose output was written with this result.
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

/// Prints `message` and a line break to standard error, if that can be written.
pub(super) fn report(message: impl Display) {
    let _ = writeln!(io::stderr(), "{message}");
}
