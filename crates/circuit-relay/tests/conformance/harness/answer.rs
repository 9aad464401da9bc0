//! Observations of a client as values that can be compared and printed.

use std::fmt;

use circuit_relay::wire::{self, HopMessage, Limit, Status};
use futures::AsyncRead;
use tokio::time::timeout;

use super::PATIENCE;

/// The outcome of a request on a hop stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A STATUS response.
    Status(HopMessage),
    /// The stream ended without a response.
    Ended,
    /// No response within [`PATIENCE`].
    Silence,
    /// The relay does not support the protocol on this connection.
    NotOffered,
}

impl Answer {
    /// Reads the response from a hop stream.
    pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Self {
        match timeout(PATIENCE, wire::read(stream)).await {
            Ok(Ok(message)) => Self::Status(message),
            Ok(Err(wire::ReadError::Io(_))) => Self::Ended,
            Ok(Err(error)) => panic!("the relay does not speak the protocol: {error}"),
            Err(_) => Self::Silence,
        }
    }

    /// Whether this is a STATUS response with this status.
    pub fn is(&self, status: Status) -> bool {
        matches!(self, Self::Status(message) if message.status == Some(status.into()))
    }

    /// The message of a STATUS response with status OK.
    pub fn granted(self) -> HopMessage {
        match self {
            Self::Status(message) if message.status == Some(Status::Ok.into()) => message,
            other => panic!("not granted: {other}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(message) => {
                let status = message.status.and_then(|s| Status::try_from(s).ok());
                f.write_str(status.map_or("an unknown status", Status::name))
            }
            Self::Ended => f.write_str("no status"),
            Self::Silence => f.write_str("no answer in time"),
            Self::NotOffered => f.write_str("not offered"),
        }
    }
}

/// Joins several observations.
pub fn list<T: fmt::Display>(parts: impl IntoIterator<Item = T>) -> String {
    let parts: Vec<_> = parts.into_iter().map(|part| part.to_string()).collect();
    parts.join(", ")
}

/// The text form of a `limit` field.
pub fn limit(limit: Option<Limit>) -> String {
    match limit {
        None => "none".into(),
        Some(Limit {
            duration: Some(seconds),
            data: Some(bytes),
        }) => format!("{seconds} s, {bytes} bytes"),
        Some(other) => format!("{other:?}"),
    }
}
