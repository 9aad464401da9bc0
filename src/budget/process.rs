//! What the system tells of this process: what it may use, and what it uses.

/// Files, sockets and pipes that the process may have open at once; `None` is unlimited.
pub(super) fn descriptor_limit() -> Option<u64> {
    let limit = rlimit::Resource::NOFILE.get_soft().ok()?;
    (limit < rlimit::INFINITY).then_some(limit)
}

#[cfg(target_os = "linux")]
mod system {
    use std::path::Path;

    use procfs::process::Process;

    use crate::budget::cgroup;

    pub(in crate::budget) fn memory_limit() -> Option<u64> {
        cgroup::memory_limit(Path::new("/"))
    }

    pub(in crate::budget) fn resident_bytes() -> Option<u64> {
        let statm = Process::myself().and_then(|process| process.statm()).ok()?;
        Some(statm.resident.saturating_mul(procfs::page_size()))
    }

    pub(in crate::budget) fn descriptors() -> Option<u64> {
        let open = Process::myself().and_then(|process| process.fd_count());
        open.ok().map(|open| open as u64)
    }
}

/// Systems that tell nothing.
#[cfg(not(target_os = "linux"))]
mod system {
    pub(in crate::budget) fn memory_limit() -> Option<u64> {
        None
    }

    pub(in crate::budget) fn resident_bytes() -> Option<u64> {
        None
    }

    pub(in crate::budget) fn descriptors() -> Option<u64> {
        None
    }
}

/// Files, sockets and pipes that are open.
pub(super) use system::descriptors;
/// Bytes of memory that the process may use.
pub(super) use system::memory_limit;
/// Bytes of memory that the process has in use.
pub(super) use system::resident_bytes;
