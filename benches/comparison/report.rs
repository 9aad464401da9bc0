//! Tables of medians, and of medians of ratios.

use std::fmt::Write;

use super::relay::Kind;

/// The target of a measured value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// No target; for information.
    None,
    /// At most this multiple of the other program's value in the same round.
    Ratio(f64),
    /// At most this value.
    Ours(f64),
}

/// A measured value.
pub(crate) struct Sample {
    name: String,
    unit: &'static str,
    value: f64,
    target: Target,
}

impl Sample {
    pub(crate) fn new(name: &str, unit: &'static str, value: f64, target: Target) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            value,
            target,
        }
    }
}

/// The values of descord-relay and another program, by round.
pub(crate) struct Table {
    other: &'static str,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    target: Target,
    ours: Vec<f64>,
    other: Vec<f64>,
}

impl Table {
    /// An empty table for descord-relay and the program with this name.
    pub(crate) fn beside(other: &'static str) -> Self {
        let rows = Vec::new();
        Self { other, rows }
    }

    /// Adds a round of descord-relay.
    pub(crate) fn add_ours(&mut self, samples: Vec<Sample>) {
        self.add(samples, |row| &mut row.ours);
    }

    /// Adds a round of the other program.
    pub(crate) fn add_other(&mut self, samples: Vec<Sample>) {
        self.add(samples, |row| &mut row.other);
    }

    fn add(&mut self, samples: Vec<Sample>, figures: impl Fn(&mut Row) -> &mut Vec<f64>) {
        for sample in samples {
            let value = sample.value;
            figures(self.row(sample)).push(value);
        }
    }

    /// The row of the measured quantity.
    fn row(&mut self, sample: Sample) -> &mut Row {
        let is_its = |row: &Row| row.name == sample.name && row.unit == sample.unit;
        let at = self.rows.iter().position(is_its).unwrap_or_else(|| {
            self.rows.push(Row {
                name: sample.name,
                unit: sample.unit,
                target: sample.target,
                ours: Vec::new(),
                other: Vec::new(),
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// The table in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "| | | {} | {} | ratio | target |\n|---|---|---|---|---|---|\n",
            Kind::Ours.name(),
            self.other
        );
        for row in &self.rows {
            let ratios = std::iter::zip(&row.ours, &row.other).map(|(ours, other)| ours / other);
            let (ours, ratio) = (median(row.ours.clone()), median(ratios.collect()));
            let target = match row.target {
                // The other program could not run this case.
                Target::Ratio(_) if ratio.is_nan() => String::new(),
                Target::None => String::new(),
                Target::Ratio(most) => format!("ratio ≤ {most} {}", verdict(ratio <= most)),
                Target::Ours(most) => format!("≤ {most} {}", verdict(ours <= most)),
            };
            let ratio = if ratio.is_finite() {
                format!("{ratio:.2}")
            } else {
                NONE.to_owned()
            };
            let (ours, other) = (figure(ours), figure(median(row.other.clone())));
            let (name, unit) = (&row.name, row.unit);
            let _ = writeln!(
                text,
                "| {name} | {unit} | {ours} | {other} | {ratio} | {target} |"
            );
        }
        text
    }
}

/// Placeholder for a missing value.
const NONE: &str = "–";

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "✓" } else { "✗" }
}

/// The median; of an even number of values, the mean of the two middle ones.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    }
}

/// Formats with three significant digits.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => NONE.to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
