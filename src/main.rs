//! The entry point: it runs [`descord_relay::cli`].

use std::process::ExitCode;

use tikv_jemalloc_ctl::{Access as _, AsName as _};
use tikv_jemallocator::Jemalloc;

/// jemalloc returns the memory of disconnected peers to the system, which the system's allocator does
/// not; `.cargo/config.toml` sets the delay. A feature of the crate makes it the allocator of C
/// libraries as well: they allocate during each handshake, and glibc would keep an arena per thread.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    descord_relay::cli::main(&allocator())
}

/// Names the allocator and the largest page size of a kernel that it supports, in KiB. The size is fixed
/// when the allocator is built; on a kernel with larger pages, the process would abort at its start.
fn allocator() -> String {
    let page: Result<usize, _> = "arenas.page\0".name().read();
    match page {
        Ok(bytes) => format!("jemalloc, for pages of up to {} KiB", bytes / 1024),
        Err(error) => format!("jemalloc, for pages of unknown size ({error})"),
    }
}
