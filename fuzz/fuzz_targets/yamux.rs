//! See `transports::fuzzing::yamux`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transports::fuzzing::yamux(bytes));
