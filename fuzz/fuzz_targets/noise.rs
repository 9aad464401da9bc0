//! See `transports::fuzzing::noise`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transports::fuzzing::noise(bytes));
