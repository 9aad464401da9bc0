//! The memory limit of the process: the smallest limit of its control groups and the memory of the
//! machine.
//!
//! All files are looked up below a root directory, which tests replace. Missing or unreadable files
//! impose no limit.

use std::path::{Component, Path, PathBuf};

use procfs::{FromRead, Meminfo, ProcessCGroup, ProcessCGroups, process::MountInfo};

/// Limits of version 2. Beyond `memory.high` the kernel throttles a process heavily.
const UNIFIED: &[&str] = &["memory.max", "memory.high"];
/// The limit of version 1.
const LEGACY: &[&str] = &["memory.limit_in_bytes"];

/// Memory limit of the calling process in bytes, according to the files below `root`.
///
/// A group without a limit contains "max", or a number larger than any machine's memory.
pub(super) fn memory_limit(root: &Path) -> Option<u64> {
    let machine = Meminfo::from_file(root.join("proc/meminfo")).ok();
    let machine = machine.map(|memory| memory.mem_total);
    let groups = ProcessCGroups::from_file(root.join("proc/self/cgroup"))
        .map(|groups| groups.0)
        .unwrap_or_default();
    let mounts = mounts(root);
    let limits = groups.iter().flat_map(|group| {
        let is_of_it = |mount: &&MountInfo| files(group, mount).is_some();
        mounts.iter().filter(is_of_it).filter_map(|mount| {
            smallest(root, group, mount, files(group, mount).unwrap_or_default())
        })
    });
    limits.chain(machine).min()
}

/// The file in which a control group reports the kernel memory of its sockets.
#[derive(Debug)]
pub(crate) enum SocketMemory {
    /// `memory.stat` of version 2.
    Unified(PathBuf),
    /// The memory of TCP sockets of version 1.
    Legacy(PathBuf),
}

impl SocketMemory {
    /// Kernel memory of the group's sockets, in bytes.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Unified(file) => {
                let text = std::fs::read_to_string(file).ok()?;
                let sockets = text.lines().find_map(|line| line.strip_prefix("sock "))?;
                sockets.trim().parse().ok()
            }
            Self::Legacy(file) => {
                let text = std::fs::read_to_string(file).ok()?;
                text.trim().parse().ok()
            }
        }
    }
}

/// Source of the memory of the calling process's sockets, if the process is in a group with a limit.
///
/// Version 2 counts it for that limit. Version 1 counts it separately and only if that was enabled;
/// the relay adds it, so that the same limit means the same on both.
pub(super) fn socket_memory(root: &Path) -> Option<SocketMemory> {
    let groups = ProcessCGroups::from_file(root.join("proc/self/cgroup")).ok()?;
    let mounts = mounts(root);
    let find = |(group, mount): (&ProcessCGroup, &MountInfo)| {
        let limits = files(group, mount)?;
        let (top, below) = directory(root, group, mount)?;
        // A limit of a parent group includes the memory of the group, too.
        let mut levels = below.ancestors().map(|part| top.join(part));
        levels.find_map(|level| limits.iter().find_map(|file| read(level.join(file))))?;
        let directory = top.join(below);
        let memory = if mount.fs_type == "cgroup2" {
            SocketMemory::Unified(directory.join("memory.stat"))
        } else {
            SocketMemory::Legacy(directory.join("memory.kmem.tcp.usage_in_bytes"))
        };
        memory.bytes().map(|_| memory)
    };
    let groups = groups.0.iter();
    groups
        .flat_map(|group| mounts.iter().map(move |mount| (group, mount)))
        .find_map(find)
}

fn mounts(root: &Path) -> Vec<MountInfo> {
    let text = std::fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let lines = text.lines();
    lines
        .filter_map(|line| MountInfo::from_line(line).ok())
        .collect()
}

/// Limit files of `group`, if `mount` shows its hierarchy.
fn files(group: &ProcessCGroup, mount: &MountInfo) -> Option<&'static [&'static str]> {
    match mount.fs_type.as_str() {
        "cgroup2" if group.hierarchy == 0 => Some(UNIFIED),
        "cgroup"
            if mount.super_options.contains_key("memory")
                && group.controllers.iter().any(|name| name == "memory") =>
        {
            Some(LEGACY)
        }
        _ => None,
    }
}

/// The smallest limit of `group` and its ancestors, as far as `mount` shows them.
fn smallest(root: &Path, group: &ProcessCGroup, mount: &MountInfo, files: &[&str]) -> Option<u64> {
    let (top, below) = directory(root, group, mount)?;
    let directories = below.ancestors().map(|part| top.join(part));
    directories
        .flat_map(|directory| files.iter().map(move |file| directory.join(file)))
        .filter_map(read)
        .min()
}

/// Mount point of the hierarchy, and the directory of `group` relative to it.
fn directory<'a>(
    root: &Path,
    group: &'a ProcessCGroup,
    mount: &MountInfo,
) -> Option<(PathBuf, &'a Path)> {
    let top = root.join(mount.mount_point.strip_prefix("/").ok()?);
    // A container may see its own group as the root of the hierarchy, or only its own group.
    let path = Path::new(&group.pathname);
    let below = path.strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::RootDir);
    let below = if path.components().all(is_plain) {
        below
    } else {
        Path::new("")
    };
    Some((top, below))
}

fn read(file: PathBuf) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.trim().parse().ok().filter(|&limit| limit > 0)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "40 23 0:36 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
                      41 23 0:37 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu\n";
    const UNLIMITED_V1: &str = "9223372036854771712\n";

    /// A machine with 8 GiB of memory and these additional files.
    fn machine(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        // `Meminfo` requires these lines, which every kernel has.
        let lines = [
            "MemTotal:        8388608 kB",
            "MemFree:         1 kB",
            "Buffers:         1 kB",
            "Cached:          1 kB",
            "SwapCached:      0 kB",
            "Active:          1 kB",
            "Inactive:        1 kB",
            "SwapTotal:       0 kB",
            "SwapFree:        0 kB",
            "Dirty:           0 kB",
            "Writeback:       0 kB",
            "Mapped:          1 kB",
            "Slab:            1 kB",
            "Committed_AS:    1 kB",
            "VmallocTotal:    1 kB",
            "VmallocUsed:     1 kB",
            "VmallocChunk:    0 kB",
        ];
        let meminfo = lines.join("\n") + "\n";
        let fixed = [
            ("proc/meminfo", meminfo.as_str()),
            ("proc/self/cgroup", cgroup),
            ("proc/self/mountinfo", mountinfo),
        ];
        for (path, text) in fixed.iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn limit(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> Option<u64> {
        memory_limit(machine(cgroup, mountinfo, files).path())
    }

    #[test]
    fn version_2() {
        let file = |name: &str| format!("sys/fs/cgroup/relay/{name}");
        let (max, high) = (file("memory.max"), file("memory.high"));
        for (files, expected) in [
            (vec![(max.as_str(), "67108864\n")], 64 * MIB),
            (vec![(&max, "max\n"), (&high, "50331648\n")], 48 * MIB),
            (vec![(&max, "67108864\n"), (&high, "max\n")], 64 * MIB),
            (vec![(&max, "max\n"), (&high, "max\n")], 8192 * MIB),
            // More than the memory of the machine.
            (vec![(&max, "1099511627776\n")], 8192 * MIB),
            (vec![(&max, "lots\n"), (&high, "0\n")], 8192 * MIB),
            (vec![], 8192 * MIB),
        ] {
            let found = limit("0::/relay\n", V2, &files);
            assert_eq!(found, Some(expected), "{files:?}");
        }
    }

    #[test]
    fn container_sees_itself_as_the_root() {
        let files = [("sys/fs/cgroup/memory.max", "67108864\n")];
        assert_eq!(limit("0::/\n", V2, &files), Some(64 * MIB));
        // Moved there from a group that the process does not see.
        assert_eq!(limit("0::/../other\n", V2, &files), Some(64 * MIB));
        // Without a cgroup namespace, the process sees its group at the mount point.
        let mounted = V2.replace(" / /sys", " /docker/abc /sys");
        assert_eq!(limit("0::/docker/abc\n", &mounted, &files), Some(64 * MIB));
    }

    #[test]
    fn smallest_limit_of_the_ancestors_applies() {
        let files = [
            ("sys/fs/cgroup/a/memory.max", "134217728\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/c/memory.max", "1073741824\n"),
            // A group of other processes.
            ("sys/fs/cgroup/d/memory.max", "1048576\n"),
        ];
        assert_eq!(limit("0::/a/b/c\n", V2, &files), Some(128 * MIB));
    }

    #[test]
    fn version_1() {
        let cgroup = "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n";
        let own = "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes";
        let above = "sys/fs/cgroup/memory/docker/memory.limit_in_bytes";
        let cpu = "sys/fs/cgroup/cpu/docker/abc/memory.limit_in_bytes";
        for (files, expected) in [
            (vec![(own, "67108864\n"), (above, UNLIMITED_V1)], 64 * MIB),
            (vec![(own, UNLIMITED_V1), (above, "33554432\n")], 32 * MIB),
            (vec![(own, UNLIMITED_V1)], 8192 * MIB),
            (vec![(cpu, "1048576\n")], 8192 * MIB),
        ] {
            assert_eq!(limit(cgroup, V1, &files), Some(expected), "{files:?}");
        }
        // Usually the mount point shows the group itself.
        let mounted = V1.replace(" / /sys", " /docker/abc /sys");
        let file = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        let found = limit(cgroup, &mounted, &[(file, "67108864\n")]);
        assert_eq!(found, Some(64 * MIB));
    }

    #[test]
    fn memory_of_sockets_counts_in_a_group_with_a_limit() {
        let stat = "anon 100\nsock 4096\nshmem 1\n";
        let sockets = |cgroup: &str, files: &[(&str, &str)]| {
            let machine = machine(cgroup, V2, files);
            socket_memory(machine.path())?.bytes()
        };
        let limited = [
            ("sys/fs/cgroup/relay/memory.max", "67108864\n"),
            ("sys/fs/cgroup/relay/memory.stat", stat),
        ];
        assert_eq!(sockets("0::/relay\n", &limited), Some(4096));
        let unlimited = [
            ("sys/fs/cgroup/relay/memory.max", "max\n"),
            ("sys/fs/cgroup/relay/memory.stat", stat),
        ];
        assert_eq!(sockets("0::/relay\n", &unlimited), None);
        let container = [
            ("sys/fs/cgroup/memory.high", "67108864\n"),
            ("sys/fs/cgroup/memory.stat", stat),
        ];
        assert_eq!(sockets("0::/\n", &container), Some(4096));
        let unknown = [
            ("sys/fs/cgroup/memory.max", "67108864\n"),
            ("sys/fs/cgroup/memory.stat", "anon 1\n"),
        ];
        assert_eq!(sockets("0::/\n", &unknown), None);
        let legacy = [
            (
                "sys/fs/cgroup/memory/abc/memory.limit_in_bytes",
                "67108864\n",
            ),
            (
                "sys/fs/cgroup/memory/abc/memory.kmem.tcp.usage_in_bytes",
                "8192\n",
            ),
        ];
        let machine = machine("4:memory:/abc\n0::/abc\n", V1, &legacy);
        let memory = socket_memory(machine.path()).and_then(|memory| memory.bytes());
        assert_eq!(memory, Some(8192));
    }

    #[test]
    fn both_versions_side_by_side() {
        let mounts = format!("{V1}50 23 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let cgroup = "4:memory:/x\n0::/x\n";
        let files = [
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "67108864\n"),
            ("sys/fs/cgroup/unified/x/memory.max", "33554432\n"),
        ];
        assert_eq!(limit(cgroup, &mounts, &files), Some(32 * MIB));
    }

    #[test]
    fn unreadable_files_impose_no_limit() {
        for garbage in ["", "x\n", "0:\n", "\u{fffd}:a:b:c\n\n"] {
            assert_eq!(limit(garbage, garbage, &[]), Some(8192 * MIB), "{garbage}");
            // An invalid mount does not hide the others.
            let mounts = format!("{garbage}{V2}");
            let files = [("sys/fs/cgroup/memory.max", "67108864\n")];
            assert_eq!(limit("0::/\n", &mounts, &files), Some(64 * MIB));
        }
        assert_eq!(memory_limit(Path::new("/nonexistent")), None);
    }
}
