//! Generates the list of differences, `docs/conformance.md`, and checks that it is current.

use std::fmt::Write;

use crate::{
    case::{Case, Difference},
    cases,
};

const INTRODUCTION: &str = "\
# Conformance

`crates/circuit-relay/tests/conformance` runs the same cases against this relay and against
`libp2p-relay`, over real swarms: in memory, over TCP, WebSocket and QUIC. The observations of the
clients are asserted at both relays, so the suite fails when either of them changes. Every difference is
deliberate, and is listed here with its reason.

This file is generated: `UPDATE_DOCS=1 cargo test --test conformance` writes it. Without the
variable, the same command fails if the file is out of date.

## Deliberate differences

| case | observed at this relay | reason |
|---|---|---|
";

const AGREEMENT: &str = "
## Same behaviour at both relays

| case | observed |
|---|---|
";

fn render() -> String {
    let mut text = INTRODUCTION.to_owned();
    let cases = cases::all();
    for Case {
        name,
        ours,
        difference,
        ..
    } in &cases
    {
        if let Some(Difference { why, .. }) = difference {
            writeln!(text, "| {name} | {ours} | {why} |").unwrap();
        }
    }
    text.push_str(AGREEMENT);
    for case in cases.iter().filter(|case| case.difference.is_none()) {
        writeln!(text, "| {} | {} |", case.name, case.ours).unwrap();
    }
    text
}

#[test]
fn the_list_of_differences_is_current() {
    test_support::generated_page::check(
        "docs/conformance.md",
        &render(),
        "cargo test --test conformance",
    );
}
