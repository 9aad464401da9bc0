//! Who may reserve, and who may connect to whom: two questions, and whoever answers them.
//!
//! The protocol knows no rules. It asks within the task of the request, so an answer may take its
//! time without holding anybody else up; see [`crate::access`] for who answers.

use std::{fmt, net::IpAddr};

use async_trait::async_trait;
use libp2p::PeerId;

use super::{
    connection::{Connection, Transport},
    deny_reason::Denied,
};

/// Who makes a request, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Requester {
    /// Who has proved to be at the other end of the connection.
    pub peer: PeerId,
    /// Where the connection comes from, if its transport has IP addresses; an IPv4 address is
    /// always given as one.
    pub ip: Option<IpAddr>,
    /// Over what.
    pub transport: Transport,
}

impl From<&Connection> for Requester {
    fn from(connection: &Connection) -> Self {
        Self {
            peer: connection.peer,
            ip: connection.ip.map(|ip| ip.to_canonical()),
            transport: connection.transport,
        }
    }
}

/// Answers both questions. An implementation bounds the time that it takes, and may be dropped
/// while it thinks: the peer may be gone.
#[async_trait]
pub trait Access: fmt::Debug + Send + Sync {
    /// Whether `peer` may reserve, or renew what it has reserved.
    async fn may_reserve(&self, peer: Requester) -> Result<(), Denied>;

    /// Whether a rule refuses `peer` a renewal that repeats a grant of a few seconds ago: what can be
    /// answered at once, without a question to anybody else.
    ///
    /// # Errors
    /// The denial.
    fn may_repeat_reserve(&self, peer: Requester) -> Result<(), Denied>;

    /// Whether `source` may open a circuit to `target`.
    async fn may_connect(&self, source: Requester, target: PeerId) -> Result<(), Denied>;
}
