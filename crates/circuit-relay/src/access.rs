//! Access control as the protocol uses it: a trait that answers whether a peer may reserve, and
//! whether it may connect to a target.
//!
//! The protocol contains no rules. It queries the implementation within the task of the request, so
//! a slow answer delays only that request.

use std::{fmt, net::IpAddr};

use async_trait::async_trait;
use libp2p::PeerId;

use super::{
    connection::{Connection, Transport},
    deny_reason::Denied,
};

/// The peer that makes a request, and where it connects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Requester {
    /// The authenticated peer id.
    pub peer: PeerId,
    /// The IP address of the peer, if the transport has one. IPv4-mapped addresses are converted to
    /// IPv4.
    pub ip: Option<IpAddr>,
    /// The transport of the connection.
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

/// Decides on requests. Implementations bound the time that they take. A pending decision is
/// dropped when the peer disconnects.
#[async_trait]
pub trait Access: fmt::Debug + Send + Sync {
    /// Whether `peer` may reserve or renew its reservation.
    async fn may_reserve(&self, peer: Requester) -> Result<(), Denied>;

    /// Whether a rule denies `peer` a renewal that repeats a grant of a few seconds ago. Answers at
    /// once, without a query to an external service.
    ///
    /// # Errors
    /// If a rule denies the renewal.
    fn may_repeat_reserve(&self, peer: Requester) -> Result<(), Denied>;

    /// Whether `source` may open a circuit to `target`.
    async fn may_connect(&self, source: Requester, target: PeerId) -> Result<(), Denied>;
}
