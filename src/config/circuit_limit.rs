//! Check of the two limits that are announced to clients for each circuit.

use super::Config;
use super::error::Warning;
use super::table::name;
use super::value_format::{Size, ValueFormat as _, show_duration};

/// Clients treat a circuit as limited if either limit is announced, and many protocols do not use
/// limited connections.
pub(super) fn half_unlimited(config: &Config) -> Option<Warning> {
    let limit = &config.limits.circuit;
    let (unlimited, limited, value) = match (limit.duration, limit.bytes) {
        (None, Some(bytes)) => (
            name::CIRCUIT_DURATION,
            name::CIRCUIT_BYTES,
            Size.show(&Some(bytes)),
        ),
        (Some(duration), None) => (
            name::CIRCUIT_BYTES,
            name::CIRCUIT_DURATION,
            show_duration(duration),
        ),
        _ => return None,
    };
    Some(Warning::new(format!(
        "{unlimited} is 0, but {limited} is {value}: clients still see limited circuits, which many \
         protocols do not use; set both to 0 for unlimited circuits"
    )))
}
