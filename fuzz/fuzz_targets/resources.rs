//! See `resource_manager::fuzzing::resources`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| resource_manager::fuzzing::resources(bytes));
