//! What the integration tests share: the real binary as a process, and real libp2p clients.

#![expect(dead_code, reason = "no test file uses all of it")]

pub mod client;
pub mod process;
