//! Every target, with stored and random inputs.

use fuzz_support::check_invariants;

#[test]
fn config_invariants_hold() {
    check_invariants("config", super::config);
}

#[test]
fn autonat_invariants_hold() {
    check_invariants("autonat", super::autonat);
}
