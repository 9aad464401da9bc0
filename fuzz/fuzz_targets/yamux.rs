//! See `descord_relay::fuzzing::yamux`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| descord_relay::fuzzing::yamux(bytes));
