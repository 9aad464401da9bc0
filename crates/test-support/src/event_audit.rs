//! Balance of opened and closed reservations and circuits in the log of a relay.

use std::collections::HashMap;

use serde_json::Value;

use crate::process::is;

/// Balances the log events of a relay, from its start.
#[derive(Debug, Default)]
pub struct EventAudit {
    /// For each reservation and circuit, the number of starts minus the number of ends.
    open: HashMap<String, i64>,
    messages: HashMap<String, u64>,
    /// Total bytes forwarded by closed circuits.
    pub bytes: u64,
}

impl EventAudit {
    /// Adds further events.
    pub fn record(&mut self, events: &[Value]) {
        for event in events {
            assert!(!is(event, "a task panicked"), "{event}");
            let message = event["message"].as_str().unwrap();
            let circuit = || format!("circuit {} {}", event["source_peer"], event["target_peer"]);
            let reservation = || format!("reservation {}", event["peer"]);
            let entry = match message {
                "circuit accepted" => Some((circuit(), 1)),
                "circuit closed" => Some((circuit(), -1)),
                "reservation accepted" => Some((reservation(), 1)),
                "reservation expired" | "reservation closed" => Some((reservation(), -1)),
                // Refers to an open reservation.
                "reservation renewed" => Some((reservation(), 0)),
                _ => None,
            };
            let Some((what, change)) = entry else {
                continue;
            };
            if message == "circuit closed" {
                let bytes = |field: &str| event[field].as_u64().unwrap();
                self.bytes += bytes("bytes_to_target") + bytes("bytes_to_source");
            }
            *self.messages.entry(message.to_owned()).or_default() += 1;
            let balance = self.open.remove(&what).unwrap_or_default() + change;
            if balance != 0 {
                self.open.insert(what, balance);
            }
        }
    }

    /// The number of reservation and circuit events with this message.
    pub fn count(&self, message: &str) -> u64 {
        self.messages.get(message).copied().unwrap_or_default()
    }

    /// Asserts that each started reservation and circuit has ended exactly once.
    pub fn assert_balanced(&self) {
        assert!(self.open.is_empty(), "{:#?}", self.open);
    }
}
