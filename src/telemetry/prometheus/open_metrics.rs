//! Encodes metric families as OpenMetrics.

use std::fmt::{self, Write};

use prometheus::proto::{Histogram, Metric, MetricFamily, MetricType};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType as OpenMetricsType,
    registry::Registry,
};

/// Suffix of counters. In OpenMetrics it is part of the sample's name only.
const COUNTER_SUFFIX: &str = "_total";
/// Suffix of info metrics, likewise.
const INFO_SUFFIX: &str = "_info";

/// Encodes the families, including the end marker.
///
/// # Errors
/// When a sample cannot be encoded.
pub(super) fn encode(families: Vec<MetricFamily>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The families as a collector for the encoder.
#[derive(Debug)]
struct Families(Vec<MetricFamily>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let (name, kind) = match family.get_field_type() {
                MetricType::COUNTER => {
                    let name = family.name().strip_suffix(COUNTER_SUFFIX);
                    (name.unwrap_or(family.name()), OpenMetricsType::Counter)
                }
                MetricType::HISTOGRAM => (family.name(), OpenMetricsType::Histogram),
                _ => match family.name().strip_suffix(INFO_SUFFIX) {
                    Some(name) => (name, OpenMetricsType::Info),
                    None => (family.name(), OpenMetricsType::Gauge),
                },
            };
            let help = escaped(family.help())?;
            let mut samples = encoder.encode_descriptor(name, &help, None, kind)?;
            for metric in family.get_metric() {
                encode_sample(&mut samples, kind, metric)?;
            }
        }
        Ok(())
    }
}

fn encode_sample(
    samples: &mut MetricEncoder<'_>,
    kind: OpenMetricsType,
    metric: &Metric,
) -> fmt::Result {
    let labels = metric.get_label().iter();
    let labels: Vec<_> = labels.map(|label| (label.name(), label.value())).collect();
    if matches!(kind, OpenMetricsType::Info) {
        return samples.encode_info(&labels);
    }
    let mut sample = samples.encode_family(&labels)?;
    match kind {
        OpenMetricsType::Counter => {
            sample.encode_counter::<NoLabelSet, f64, f64>(&metric.get_counter().get_value(), None)
        }
        OpenMetricsType::Histogram => {
            let histogram = metric.get_histogram();
            let (sum, count) = (histogram.get_sample_sum(), histogram.get_sample_count());
            sample.encode_histogram::<NoLabelSet>(sum, count, &buckets(histogram), None)
        }
        _ => sample.encode_gauge(&metric.get_gauge().get_value()),
    }
}

/// The upper bound and the count of each bucket, from the cumulative counts.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let bounded = histogram.get_bucket().iter();
    let bounded = bounded.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let all = (f64::INFINITY, histogram.get_sample_count());
    let mut below = 0;
    bounded
        .chain([all])
        .map(|(bound, count)| {
            let alone = count.saturating_sub(below);
            below = count;
            (bound, alone)
        })
        .collect()
}

/// Escapes a description, which the encoder does not do.
fn escaped(help: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(help.len());
    for character in help.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '"' | '\\' => write!(text, "\\{character}")?,
            _ => text.push(character),
        }
    }
    Ok(text)
}
