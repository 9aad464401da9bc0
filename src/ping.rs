//! Answers [pings], so that peers learn whether the relay is there and how far away it is.
//!
//! Why not `libp2p-ping`. It asks every peer as well, on a stream of its own, again and again. The
//! relay's transports do that at less cost, and only when a peer is silent: `transport::yamux` and
//! QUIC.
//!
//! [pings]: https://github.com/libp2p/specs/blob/master/ping/ping.md

use std::{
    convert::Infallible,
    fmt, io,
    task::{Context, Poll},
};

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint,
        transport::PortUse,
        upgrade::{DeniedUpgrade, ReadyUpgrade},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound},
    },
};
use tokio::task::coop::consume_budget;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
/// The length of a ping, and of its answer.
const PING_BYTES: usize = 32;
/// How many streams of one connection are served, as the specification has it; another one takes
/// the place of the oldest.
const MAX_STREAMS: usize = 2;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Behaviour;

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection_id: ConnectionId,
        _peer: PeerId,
        _remote: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _event: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _connection_id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// The streams of one connection on which pings are answered.
#[derive(Default)]
pub struct Handler {
    /// The newest comes last.
    streams: Vec<BoxFuture<'static, io::Result<Infallible>>>,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("streams", &self.streams.len())
            .finish()
    }
}

/// Answers until the peer is content, or the stream fails; both are an error here.
async fn answer(mut stream: Stream) -> io::Result<Infallible> {
    let mut ping = [0; PING_BYTES];
    loop {
        stream.read_exact(&mut ping).await?;
        stream.write_all(&ping).await?;
        stream.flush().await?;
        // However many have come at once, others get their turn.
        consume_budget().await;
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Infallible>> {
        // One that has ended was closed by the peer, or failed under it.
        self.streams
            .retain_mut(|stream| stream.poll_unpin(cx).is_pending());
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
            protocol: mut stream,
            ..
        }) = event
        {
            // Who does nothing but ping does not use the relay.
            stream.ignore_for_keep_alive();
            if self.streams.len() == MAX_STREAMS {
                drop(self.streams.remove(0));
            }
            self.streams.push(answer(stream).boxed());
        }
    }
}
