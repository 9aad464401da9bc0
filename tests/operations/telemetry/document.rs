//! The table of variables in `docs/telemetry.md` is that of the code.

use descord_relay::telemetry::reference_table;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telemetry.md");
const BEGIN: &str =
    "<!-- variables: `UPDATE_DOCS=1 cargo test --test operations telemetry` writes them -->\n";
const END: &str = "<!-- end of variables -->";

#[test]
fn the_table_of_variables_is_current() {
    let text = std::fs::read_to_string(PATH).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    let current = format!("\n{}\n", reference_table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, format!("{before}{BEGIN}{current}{END}{after}")).unwrap();
        return;
    }
    assert!(
        table == current,
        "docs/telemetry.md is out of date; `UPDATE_DOCS=1 cargo test --test operations telemetry` writes it"
    );
}
