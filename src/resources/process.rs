//! What the system tells of this process: what it may use, and what it uses.

pub(super) use self::system::SocketMemory;

/// Files, sockets and pipes that the process may have open at once; `None` is unlimited.
pub(super) fn descriptor_limit() -> Option<u64> {
    let limit = rlimit::Resource::NOFILE.get_soft().ok()?;
    (limit < rlimit::INFINITY).then_some(limit)
}

/// Bytes of memory that the process may use, if the system tells.
pub(super) fn memory_limit() -> Option<u64> {
    system::memory_limit()
}

/// Bytes of memory that the process has in use, if the system tells.
pub fn used_bytes() -> Option<u64> {
    system::used_bytes()
}

/// Where the system reports the memory of the process's sockets, if that counts for its limit.
pub(super) fn socket_memory() -> Option<SocketMemory> {
    system::socket_memory()
}

/// Files, sockets and pipes that the process has open, if the system tells.
pub fn open_descriptors() -> Option<u64> {
    system::open_descriptors()
}

#[cfg(target_os = "linux")]
mod system {
    use std::path::Path;

    use procfs::process::Process;

    use crate::resources::cgroup;
    pub(crate) use crate::resources::cgroup::SocketMemory;

    pub(super) fn socket_memory() -> Option<SocketMemory> {
        cgroup::socket_memory(Path::new("/"))
    }

    pub(super) fn memory_limit() -> Option<u64> {
        cgroup::memory_limit(Path::new("/"))
    }

    pub(super) fn used_bytes() -> Option<u64> {
        let statm = Process::myself().and_then(|process| process.statm()).ok()?;
        // What is shared is mapped from files, the program itself above all: the kernel takes it back
        // when memory is short.
        let pages = statm.resident.saturating_sub(statm.shared);
        Some(pages.saturating_mul(procfs::page_size()))
    }

    pub(super) fn open_descriptors() -> Option<u64> {
        let open = Process::myself().and_then(|process| process.fd_count());
        open.ok().map(|open| open as u64)
    }
}

/// Systems that tell nothing.
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
