//! Process metrics under the names of Prometheus client libraries.
//!
//! The instruments follow the semantic conventions of OpenTelemetry, from which the exporter derives
//! names that dashboards for Prometheus do not know.

use prometheus::proto::{Counter, Metric, MetricFamily, MetricType};

use crate::metrics::catalogue::conventional_name;

/// Renames the metrics of the process. A renamed counter is the sum over its labels.
pub(super) fn rename(mut families: Vec<MetricFamily>) -> Vec<MetricFamily> {
    for family in &mut families {
        let Some(name) = conventional_name(family.name()) else {
            continue;
        };
        family.set_name(name.to_owned());
        if family.get_field_type() == MetricType::COUNTER {
            let metrics = family.get_metric().iter();
            let mut counter = Counter::default();
            counter.set_value(metrics.map(|metric| metric.get_counter().get_value()).sum());
            let mut total = Metric::default();
            total.set_counter(counter);
            family.set_metric(vec![total]);
        }
    }
    // Families are sorted by name.
    families.sort_by(|a, b| a.name().cmp(b.name()));
    families
}

#[cfg(test)]
mod tests {
    use opentelemetry::{KeyValue, metrics::MeterProvider};
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use crate::{
        metrics::catalogue::{CPU_TIME, MEMORY_USAGE},
        telemetry::prometheus::{Format, Prometheus},
    };

    #[tokio::test]
    async fn process_metrics_have_the_names_of_prometheus_clients() {
        let (prometheus, reader) = Prometheus::new().unwrap();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let meter = provider.meter("test");
        CPU_TIME.observe_f64(&meter, |observer| {
            observer.observe(1.5, &[KeyValue::new("cpu.mode", "user")]);
            observer.observe(0.25, &[KeyValue::new("cpu.mode", "system")]);
        });
        MEMORY_USAGE.observe(&meter, |observer| observer.observe(4096, &[]));
        let text = prometheus.read(Format::Text).await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("process"))
            .collect();
        assert_eq!(
            lines,
            [
                "process_cpu_seconds_total 1.75",
                "process_resident_memory_bytes 4096"
            ]
        );
    }
}
