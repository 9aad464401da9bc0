//! The OpenTelemetry resource of the relay.

use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, resource::TelemetryResourceDetector};

use super::settings::Settings;

/// The resource of all traces and metrics. `instance` is the relay's name within its fleet.
pub(super) fn resource(settings: &Settings, instance: &str) -> Resource {
    let attributes = settings.attributes.iter();
    let attributes = attributes.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let name = settings.service_name.as_ref();
    // Later attributes replace earlier ones.
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes([
            KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
        ])
        .with_attributes(attributes)
        .with_attributes(name.map(|name| KeyValue::new("service.name", name.clone())))
        .build()
}
