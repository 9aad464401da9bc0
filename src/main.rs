//! See the library, `descord_relay`.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Gives back what peers have used who are gone, which the system's allocator does not. How soon
/// says `.cargo/config.toml`. By a feature of the crate it is that of the libraries, too, which are
/// written in C: they allocate in each handshake, and glibc would keep that for each thread.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    descord_relay::cli::main()
}
