//! See the library, `descord_relay`.

use std::process::ExitCode;

fn main() -> ExitCode {
    descord_relay::cli::main()
}
