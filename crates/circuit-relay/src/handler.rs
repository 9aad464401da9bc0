//! Connection handler: accepts hop streams and opens stop streams. Contains no policy.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::sync::mpsc;

use super::{
    connection::{Connection, StopReply},
    guards::Registration,
    hop,
    service::Relay,
    stop::STOP_TIMEOUT,
    wire::{HOP_PROTOCOL, STOP_PROTOCOL},
};

/// Stop streams of one connection that may be opening at once. The swarm keeps a request until its
/// timeout even if its requester has given up, so further requests wait in our own queue.
const MAX_OPENING_STREAMS: usize = 64;

/// The relay's connection handler; see the module documentation.
#[derive(Debug)]
pub struct Handler {
    relay: Arc<Relay>,
    connection: Arc<Connection>,
    /// Removes the connection from the table when the handler is dropped.
    _registration: Registration,
    stops: mpsc::Receiver<StopReply>,
    /// Stop streams that the swarm is opening, including abandoned ones.
    opening: usize,
}

impl Handler {
    pub(super) fn new(
        relay: Arc<Relay>,
        connection: Connection,
        stops: mpsc::Receiver<StopReply>,
    ) -> Self {
        let connection = Arc::new(connection);
        let registration = Registration::new(Arc::clone(&relay), Arc::clone(&connection));
        Self {
            relay,
            connection,
            _registration: registration,
            stops,
            opening: 0,
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = StopReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(HOP_PROTOCOL), ())
    }

    /// Open streams keep a connection alive on their own; a reservation has no stream.
    fn connection_keep_alive(&self) -> bool {
        self.connection.holds_reservation()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Infallible>>
    {
        while self.opening < MAX_OPENING_STREAMS
            && let Poll::Ready(Some(reply)) = self.stops.poll_recv(cx)
        {
            // The requester may have dropped the receiver.
            if !reply.is_closed() {
                let protocol = SubstreamProtocol::new(ReadyUpgrade::new(STOP_PROTOCOL), reply)
                    .with_timeout(STOP_TIMEOUT);
                self.opening += 1;
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        // If the requester has dropped the receiver, the stream is dropped with the reply.
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => {
                let (relay, connection) = (Arc::clone(&self.relay), Arc::clone(&self.connection));
                self.relay
                    .lifecycle()
                    .spawn("hop", hop::serve(relay, connection, protocol));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info: reply,
            }) => {
                self.opening = self.opening.saturating_sub(1);
                let _ = reply.send(Some(protocol));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, .. }) => {
                self.opening = self.opening.saturating_sub(1);
                let _ = reply.send(None);
            }
            _ => {}
        }
    }
}
