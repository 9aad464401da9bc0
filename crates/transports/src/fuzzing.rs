//! Entry points of fuzzers, one for each parser of untrusted input. Each takes arbitrary bytes and
//! panics when an invariant is violated.
//!
//! `fuzz/` runs them guided by coverage, on a nightly compiler. The tests here run them on any
//! compiler, with stored and random inputs.

mod noise;
mod proxy;

pub use self::{noise::noise, proxy::proxy};
pub use super::yamux::fuzzing::yamux;

#[cfg(test)]
mod tests {
    use fuzz_support::check_invariants;

    #[test]
    fn noise_invariants_hold() {
        check_invariants("noise", super::noise);
    }

    #[test]
    fn proxy_invariants_hold() {
        check_invariants("proxy", super::proxy);
    }

    #[test]
    fn yamux_invariants_hold() {
        check_invariants("yamux", super::yamux);
    }
}
