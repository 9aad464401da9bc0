//! See `circuit_relay::fuzzing::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| circuit_relay::fuzzing::wire(bytes));
