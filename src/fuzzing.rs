//! Entry points of fuzzers: one for each parser of untrusted input.
//! Each takes arbitrary bytes and panics when an invariant is violated.
//!
//! `fuzz/` runs them guided by coverage, on a nightly compiler. The tests here run them on any compiler,
//! with the inputs of `fuzz/corpus` and with random ones. They are not part of the binary.

mod config;
#[cfg(test)]
mod tests;

pub use self::config::config;
pub use crate::autonat::fuzzing::autonat;
