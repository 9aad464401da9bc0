//! What shells and manuals need: completions and man pages, generated from the parser.

use std::{path::Path, process::ExitCode};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::output;

/// Prints the completions of `shell`.
pub(super) fn completions(mut parser: Command, shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    let name = parser.get_name().to_owned();
    clap_complete::generate(shell, &mut parser, name, &mut script);
    output::print(String::from_utf8_lossy(&script))
}

/// Prints the man page of the program, or writes the pages of all commands to a directory.
pub(super) fn man(parser: Command, directory: Option<&Path>) -> ExitCode {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        return match Man::new(parser).render(&mut page) {
            Ok(()) => output::print(String::from_utf8_lossy(&page)),
            Err(error) => output::exit_code(Err(error)),
        };
    };
    let shown = directory.display();
    match clap_mangen::generate_to(parser, directory) {
        Ok(()) => output::print_line(format_args!("wrote the man pages to {shown}")),
        Err(error) => {
            output::report(format_args!("cannot write man pages to {shown}: {error}"));
            ExitCode::FAILURE
        }
    }
}
