//! Generates the table of variables in `docs/telemetry.md`, and checks that it is current.

use descord_relay::telemetry::reference_table;
use test_support::generated_page::check_variables;

#[test]
fn the_table_of_variables_is_current() {
    check_variables(
        "docs/telemetry.md",
        &reference_table(),
        "cargo test --test operations telemetry",
    );
}
