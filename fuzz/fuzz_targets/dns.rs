//! See `fleet_dns::fuzzing::dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fleet_dns::fuzzing::dns(bytes));
