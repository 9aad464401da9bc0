//! What fuzzers call: for every place where bytes of strangers come in, and for the resources that
//! remote peers use, a function that takes any bytes, and panics if a promise is broken.
//!
//! `fuzz/` drives them by coverage, on a nightly compiler; the tests here, on any compiler, with the
//! inputs of `fuzz/corpus` and with others by chance. Neither is in a build of the relay.

mod config;
mod dns;
mod noise;
mod proxy;
#[cfg(test)]
mod tests;

pub use self::{config::config, dns::dns, noise::noise, proxy::proxy};
pub use crate::{
    relay::fuzzing::{hop, wire},
    resources::fuzzing::resources,
    transport::yamux::fuzzing::yamux,
};
