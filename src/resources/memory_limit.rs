//! The setting for how much memory the relay may use.

/// How much memory the relay may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The smallest memory limit of the process's control groups, or else the machine's memory.
    #[default]
    Auto,
    /// A fixed number of bytes.
    Bytes(u64),
    /// No limit.
    Unlimited,
}
