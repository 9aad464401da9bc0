//! See `descord_relay::fuzzing::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| descord_relay::fuzzing::config(bytes));
