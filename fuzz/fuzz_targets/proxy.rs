//! See `transports::fuzzing::proxy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transports::fuzzing::proxy(bytes));
