//! What a client observes of the relay, in words that can be compared and printed.

use std::fmt;

use circuit_relay::wire::{self, HopMessage, Limit, Status};
use futures::AsyncRead;
use tokio::time::timeout;

use super::PATIENCE;

/// What came back to a request on a hop stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A STATUS.
    Status(HopMessage),
    /// The stream ended without one.
    Ended,
    /// Nothing within [`PATIENCE`].
    Silence,
    /// The relay does not speak the protocol on this connection.
    NotOffered,
}

impl Answer {
    /// Reads the answer from a hop stream.
    pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Self {
        match timeout(PATIENCE, wire::read(stream)).await {
            Ok(Ok(message)) => Self::Status(message),
            Ok(Err(wire::ReadError::Io(_))) => Self::Ended,
            Ok(Err(error)) => panic!("the relay does not speak the protocol: {error}"),
            Err(_) => Self::Silence,
        }
    }

    /// Whether it is a STATUS of this kind.
    pub fn is(&self, status: Status) -> bool {
        matches!(self, Self::Status(message) if message.status == Some(status.into()))
    }

    /// The message of a STATUS that says OK.
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

/// Several observations in one.
pub fn list<T: fmt::Display>(parts: impl IntoIterator<Item = T>) -> String {
    let parts: Vec<_> = parts.into_iter().map(|part| part.to_string()).collect();
    parts.join(", ")
}

/// What a `limit` field says.
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
