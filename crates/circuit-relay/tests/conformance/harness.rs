//! The harness of the cases: the two relays, raw clients, and circuits between clients.

pub mod answer;
pub mod circuit;
pub mod client;
pub mod net;
pub mod raw;
pub mod server;

use std::time::Duration;

use circuit_relay::STOP_TIMEOUT;

/// Tolerance after a deadline, for a busy machine.
pub const SLACK: Duration = Duration::from_secs(3);
/// Timeout for anything that a case waits for. The relay's longest timeout is that of STOP.
pub const PATIENCE: Duration = Duration::from_secs(STOP_TIMEOUT.as_secs() + SLACK.as_secs());
