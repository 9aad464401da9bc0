//! Reservations and circuits that began and ended, according to the log of a relay.

use std::collections::HashMap;

use serde_json::Value;

use crate::process::is;

/// Balances the events of a relay, from its first one on.
#[derive(Debug, Default)]
pub struct EventAudit {
    /// Reservations and circuits that have begun more often than they have ended, and the reverse.
    open: HashMap<String, i64>,
    messages: HashMap<String, u64>,
    /// What all circuits that are closed have carried.
    pub bytes: u64,
}

impl EventAudit {
    /// Adds the next events.
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
                // Of what is open already.
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

    /// How many events of a reservation or a circuit had this message.
    pub fn count(&self, message: &str) -> u64 {
        self.messages.get(message).copied().unwrap_or_default()
    }

    /// Every reservation and every circuit that began has ended, once.
    pub fn assert_balanced(&self) {
        assert!(self.open.is_empty(), "{:#?}", self.open);
    }
}
