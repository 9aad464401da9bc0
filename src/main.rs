//! See the library, `descord_relay`.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Gives back what peers have used who are gone, which the system's allocator does not. How soon
/// says `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    descord_relay::cli::main()
}
