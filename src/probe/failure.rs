//! Failures: the step, the cause, and a hint.

use std::{error::Error, fmt, time::Duration};

use libp2p::{
    relay::outbound::hop::{ConnectError, ReserveError},
    swarm::DialError,
};
use serde::Serialize;

use super::plain_words::explain;

/// The steps of a probe, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Resolve a `/dnsaddr` name.
    Resolve,
    /// Connect to the relay and authenticate it.
    Connect,
    /// Reserve: `RESERVE` of the hop protocol.
    Reserve,
    /// Connect to the listener through the relay: `CONNECT` of the hop protocol.
    Circuit,
    /// Check that the relay is the only path between the two clients.
    Relayed,
    /// Echo small messages.
    Echo,
    /// Echo bulk data in both directions at once, and verify every byte.
    Throughput,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Reserve => "reserve",
            Self::Circuit => "circuit",
            Self::Relayed => "relayed",
            Self::Echo => "echo",
            Self::Throughput => "throughput",
        })
    }
}

/// A failed step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// The cause.
    pub cause: Cause,
}

impl Failure {
    /// A failed step; the hint of the cause takes precedence over that of the step.
    pub(super) fn new(step: Step, cause: Cause) -> Self {
        let cause = cause.in_plain_words();
        let hint = (step == Step::Connect)
            .then(|| "is the relay running, and does the firewall let this port through?".into());
        Self {
            step,
            cause: Cause {
                hint: cause.hint.or(hint),
                ..cause
            },
        }
    }

    /// A step that exceeded its deadline.
    pub(super) fn timeout(step: Step, after: Duration) -> Self {
        let cause = Cause::new(format!(
            "not done within {}",
            humantime::format_duration(after)
        ));
        let hint = match step {
            Step::Resolve => "is the DNS server reachable?",
            Step::Connect => "does a firewall drop packets to this port?",
            Step::Reserve | Step::Circuit => "the relay is reachable, but slow to respond",
            Step::Relayed | Step::Echo | Step::Throughput => {
                "the circuit is up, but stalls; a slow link needs a longer --timeout"
            }
        };
        Self {
            step,
            cause: cause.hint(hint),
        }
    }
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The error with its sources, on one line.
    pub message: String,
    /// A hint for the user.
    pub hint: Option<String>,
}

impl Cause {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The cause in plain words if it is a known one, with the library's text at the end.
    fn in_plain_words(self) -> Self {
        match explain(&self.message) {
            Some((message, hint)) => Self::new(format!("{message} [{}]", self.message)).hint(hint),
            None => self,
        }
    }

    /// Whether the cause is a known one.
    pub(super) fn is_known(&self) -> bool {
        explain(&self.message).is_some()
    }

    /// An error with its sources.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        Self {
            message: chain(error),
            hint: hint_for(error).map(Into::into),
        }
    }

    /// A failed dial.
    pub(super) fn of_dial(error: &DialError) -> Self {
        match error {
            DialError::Transport(attempts) => match attempts.as_slice() {
                [] => Self::new("no transport for this address"),
                [(_, error)] => Self::of(error),
                [(_, first), ..] => Self {
                    message: attempts
                        .iter()
                        .map(|(address, error)| format!("{address}: {}", chain(error)))
                        .collect::<Vec<_>>()
                        .join("; "),
                    hint: hint_for(first).map(Into::into),
                },
            },
            DialError::WrongPeerId { obtained, .. } => {
                Self::new(format!("another peer has this address: {obtained}"))
                    .hint("the relay's identity changed, or the address is wrong")
            }
            other => Self::of(other),
        }
    }
}

/// The error and its sources, joined by colons, without wrappers that only repeat their source.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut links: Vec<String> = Vec::new();
    for error in sources(error) {
        // Some errors of libp2p are a list over several lines, and end with a full stop.
        let words = error
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let text = words
            .trim_start_matches("Multiple dial errors occurred: - ")
            .trim_end_matches('.');
        if !text.is_empty() && !links.iter().any(|link| link.contains(text)) {
            links.push(text.to_owned());
        }
    }
    links.join(": ")
}

fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn hint_for(error: &(dyn Error + 'static)) -> Option<&'static str> {
    sources(error)
        .find_map(|error| match error.downcast_ref() {
            Some(error) => Some(hint_for_reserve(error)),
            None => error.downcast_ref().map(hint_for_connect),
        })
        .flatten()
}

fn hint_for_reserve(error: &ReserveError) -> Option<&'static str> {
    match error {
        ReserveError::Unsupported => Some("this peer is not a Circuit Relay v2 relay"),
        ReserveError::Refused | ReserveError::ResourceLimitExceeded => {
            Some("the relay is full or draining, or limits this IP address")
        }
        // A denial has a hint of its own: see `plain_words`.
        ReserveError::Protocol(_) => Some("the relay's response violates the specification"),
        ReserveError::Io(_) => None,
    }
}

fn hint_for_connect(error: &ConnectError) -> Option<&'static str> {
    match error {
        ConnectError::ResourceLimitExceeded => Some("the relay is at its limit of circuits"),
        ConnectError::ConnectionFailed => Some("the relay cannot reach reserved peers"),
        ConnectError::NoReservation => {
            Some("the reservation was just granted: do several relays share this address?")
        }
        ConnectError::PermissionDenied => Some("the relay's access rules deny the circuit"),
        ConnectError::Unsupported | ConnectError::Io(_) | ConnectError::Protocol(_) => None,
    }
}
