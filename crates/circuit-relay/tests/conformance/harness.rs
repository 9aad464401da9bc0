//! What the cases are made of: the two relays, raw clients, and circuits between those.

pub mod answer;
pub mod circuit;
pub mod client;
pub mod net;
pub mod raw;
pub mod server;

use std::time::Duration;

use circuit_relay::STOP_TIMEOUT;

/// What a busy machine may add to a deadline.
pub const SLACK: Duration = Duration::from_secs(3);
/// Longer than anything that a case waits for; what takes longer does not happen. The longest of
/// the relay's own deadlines is that of STOP.
pub const PATIENCE: Duration = Duration::from_secs(STOP_TIMEOUT.as_secs() + SLACK.as_secs());
