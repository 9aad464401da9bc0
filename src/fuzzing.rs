//! Entry points of fuzzers: one for each parser of untrusted input, and one for the resource manager.
//! Each takes arbitrary bytes and panics when an invariant is violated.
//!
//! `fuzz/` runs them guided by coverage, on a nightly compiler. The tests here run them on any compiler,
//! with the inputs of `fuzz/corpus` and with random ones. They are not part of the binary.

mod config;
mod dns;
mod noise;
mod proxy;
#[cfg(test)]
mod tests;

pub use self::{config::config, dns::dns, noise::noise, proxy::proxy};
pub use crate::{
    autonat::fuzzing::autonat,
    relay::fuzzing::{hop, wire},
    resources::fuzzing::resources,
    transport::yamux::fuzzing::yamux,
};
