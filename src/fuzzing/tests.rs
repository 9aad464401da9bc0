//! Every target, with stored and random inputs.

use test_support::fuzz::check_invariants;

#[test]
fn config_invariants_hold() {
    check_invariants("config", super::config);
}

#[test]
fn autonat_invariants_hold() {
    check_invariants("autonat", super::autonat);
}
