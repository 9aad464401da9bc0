//! See `descord_relay::fuzzing::autonat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| descord_relay::fuzzing::autonat(bytes));
