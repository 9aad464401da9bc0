//! A behaviour that provides raw streams: outbound ones on request, on a chosen connection, and inbound
//! stop streams with their connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    task::{Context, Poll},
};

use circuit_relay::wire::STOP_PROTOCOL;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::sync::{mpsc, oneshot};

use super::answer::Answer;

/// A request for an outbound stream of a protocol.
pub type Open = (StreamProtocol, Opened);
/// Receives the stream, or the observation of the failure.
pub type Opened = oneshot::Sender<Result<Stream, Answer>>;
/// A stop stream and its connection.
pub type Stop = (ConnectionId, Stream);

const CAPACITY: usize = 256;
/// Offered instead of the stop protocol. No relay opens such a stream.
const UNUSED_PROTOCOL: StreamProtocol = StreamProtocol::new("/descord-relay/nothing");

pub struct Behaviour {
    /// Receives stop streams. Without it, the stop protocol is not supported.
    stops: Option<mpsc::Sender<Stop>>,
    connections: HashMap<ConnectionId, mpsc::Sender<Open>>,
}

impl Behaviour {
    pub fn new(stops: Option<mpsc::Sender<Stop>>) -> Self {
        Self {
            stops,
            connections: HashMap::new(),
        }
    }

    /// A sender for stream requests on this connection.
    pub fn opener(&self, connection: ConnectionId) -> mpsc::Sender<Open> {
        self.connections[&connection].clone()
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Err(ConnectionDenied::new(
            "clients accept no inbound connections",
        ))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let (sender, opens) = mpsc::channel(CAPACITY);
        self.connections.insert(id, sender);
        Ok(Handler {
            id,
            opens,
            stops: self.stops.clone(),
        })
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event {
            self.connections.remove(&closed.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

pub struct Handler {
    id: ConnectionId,
    opens: mpsc::Receiver<Open>,
    stops: Option<mpsc::Sender<Stop>>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opened;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        let protocol = match self.stops {
            Some(_) => STOP_PROTOCOL,
            None => UNUSED_PROTOCOL,
        };
        SubstreamProtocol::new(ReadyUpgrade::new(protocol), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Opened, Infallible>> {
        if let Poll::Ready(Some((protocol, opened))) = self.opens.poll_recv(cx) {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol), opened);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Opened>,
    ) {
        // The receiver is dropped when the case ends.
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => {
                if let Some(stops) = &self.stops {
                    let _ = stops.try_send((self.id, protocol));
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info: opened,
            }) => {
                let _ = opened.send(Ok(protocol));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                info: opened,
                error,
            }) => {
                let _ = opened.send(Err(match error {
                    StreamUpgradeError::NegotiationFailed => Answer::NotOffered,
                    StreamUpgradeError::Timeout => Answer::Silence,
                    StreamUpgradeError::Io(_) => Answer::Ended,
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }
}
