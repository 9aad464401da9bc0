//! Generates `docs/metrics.md`, and checks that it is current.

use std::fmt::Write;

use descord_relay::metrics::{Attribute, DNS_INSTRUMENTS, INSTRUMENTS, Instrument};
use test_support::prometheus::name;

const INTRODUCTION: &str = "\
# Metrics

The same instruments are exported at `/metrics` of the admin API and over OTLP. Attributes have only the values
listed here, so the number of series is bounded. They never contain peer ids or addresses.

At `/metrics`, dots in attribute names become underscores, and up-down counters are gauges. The series of a
histogram end in `_bucket`, `_sum` and `_count`. Metrics of the process have the conventional names of
Prometheus client libraries and no labels; over OTLP they follow OpenTelemetry's semantic conventions.

[`observability/`](../observability/README.md) has alert rules and a dashboard.

This page is generated: `UPDATE_DOCS=1 cargo test --test operations metrics` writes it; without the variable, the
same command fails if the page is out of date.

## The relay

";

const OF_DNS: &str = "
## `descord-relay dns`

In addition to `relay.build.info` and the metrics of the process and its runtime:

";

const HEAD: &str = "\
| OpenTelemetry | Prometheus | kind | unit | attributes | description |
|---|---|---|---|---|---|
";

/// The values of these attributes depend on the build.
const BUILD_INFO: &str = "relay.build.info";

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
        let attributes: Vec<_> = match instrument.name {
            BUILD_INFO => vec!["`version`, `revision`".to_owned()],
            _ => instrument.attributes.iter().map(values).collect(),
        };
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
    test_support::generated_page::check(
        "docs/metrics.md",
        &render(),
        "cargo test --test operations metrics",
    );
}
