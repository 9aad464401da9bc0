//! Limits and resource use of this process, as the system reports them.

pub(super) use self::system::SocketMemory;

/// Limit of open file descriptors; `None` is unlimited.
pub(super) fn descriptor_limit() -> Option<u64> {
    let limit = rlimit::Resource::NOFILE.get_soft().ok()?;
    (limit < rlimit::INFINITY).then_some(limit)
}

/// Memory limit in bytes, if known.
pub(super) fn memory_limit() -> Option<u64> {
    system::memory_limit()
}

/// Memory in use in bytes, if known.
pub fn used_bytes() -> Option<u64> {
    system::used_bytes()
}

/// Source of the memory of the process's sockets, if it counts for the limit.
pub(super) fn socket_memory() -> Option<SocketMemory> {
    system::socket_memory()
}

/// Open file descriptors, if known.
pub fn open_descriptors() -> Option<u64> {
    system::open_descriptors()
}

#[cfg(target_os = "linux")]
mod system {
    use std::path::Path;

    use procfs::process::Process;

    use crate::cgroup;
    pub(crate) use crate::cgroup::SocketMemory;

    pub(super) fn socket_memory() -> Option<SocketMemory> {
        cgroup::socket_memory(Path::new("/"))
    }

    pub(super) fn memory_limit() -> Option<u64> {
        cgroup::memory_limit(Path::new("/"))
    }

    pub(super) fn used_bytes() -> Option<u64> {
        let statm = Process::myself().and_then(|process| process.statm()).ok()?;
        // Shared pages are mapped from files, mostly the program itself. The kernel reclaims them
        // under pressure.
        let pages = statm.resident.saturating_sub(statm.shared);
        Some(pages.saturating_mul(procfs::page_size()))
    }

    pub(super) fn open_descriptors() -> Option<u64> {
        let open = Process::myself().and_then(|process| process.fd_count());
        open.ok().map(|open| open as u64)
    }
}

/// Systems that report nothing.
#[cfg(not(target_os = "linux"))]
mod system {
    #[derive(Debug)]
    pub(crate) enum SocketMemory {}

    impl SocketMemory {
        pub(crate) fn bytes(&self) -> Option<u64> {
            match *self {}
        }
    }

    pub(super) fn socket_memory() -> Option<SocketMemory> {
        None
    }

    pub(super) fn memory_limit() -> Option<u64> {
        None
    }

    pub(super) fn used_bytes() -> Option<u64> {
        None
    }

    pub(super) fn open_descriptors() -> Option<u64> {
        None
    }
}
