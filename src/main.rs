//! The entry point: it runs [`descord_relay::cli`].

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// jemalloc returns the memory of disconnected peers to the system, which the system's allocator does
/// not; `.cargo/config.toml` sets the delay. A feature of the crate makes it the allocator of C
/// libraries as well: they allocate during each handshake, and glibc would keep an arena per thread.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    descord_relay::cli::main()
}
