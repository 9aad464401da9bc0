//! The list of metrics, for people to read.

use std::fmt::Write;

use descord_relay::metrics::{Attribute, DNS_INSTRUMENTS, INSTRUMENTS, Instrument};

use crate::support::prometheus::name;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

const INTRODUCTION: &str = "\
# Metrics

One set of instruments: `/metrics` of the admin endpoints and a collector that is pushed to by OTLP
see the same values. Attributes take the values that are listed here and no others, whatever peers
do: there is never a peer id or an address among them.

In Prometheus, dots in the names of attributes are underscores, and gauges are what is a gauge or an
up-down counter here. The series of a histogram end in `_bucket`, `_sum` and `_count`.

[`observability/`](../observability/README.md) has alerts and a dashboard.

This file is generated: `UPDATE_DOCS=1 cargo test --test operations metrics` writes it, and without the variable
the same command fails when the file is out of date.

## The relay

";

const OF_DNS: &str = "
## `descord-relay dns`

Besides those of the process:

";

const HEAD: &str = "\
| OpenTelemetry | Prometheus | kind | unit | attributes | what it says |
|---|---|---|---|---|---|
";

fn values(attribute: &Attribute) -> String {
    let values = attribute.values.iter().map(|value| format!("`{value}`"));
    let values: Vec<_> = values.collect();
    format!("`{}`: {}", attribute.key, values.join(", "))
}

fn render() -> String {
    let relay = table(INSTRUMENTS);
    let dns = table(DNS_INSTRUMENTS);
    format!("{INTRODUCTION}{relay}{OF_DNS}{dns}")
}

fn table(instruments: &[Instrument]) -> String {
    let mut text = HEAD.to_owned();
    for instrument in instruments {
        let attributes: Vec<_> = instrument.attributes.iter().map(values).collect();
        writeln!(
            text,
            "| `{}` | `{}` | {} | `{}` | {} | {} |",
            instrument.name,
            name(instrument),
            instrument.kind.as_str(),
            instrument.unit,
            attributes.join("<br>"),
            instrument.description,
        )
        .unwrap();
    }
    text
}

#[test]
fn the_list_of_metrics_is_current() {
    let text = render();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &text).unwrap();
    }
    let written = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        written == text,
        "docs/metrics.md is out of date; `UPDATE_DOCS=1 cargo test --test operations metrics` writes it"
    );
}
