//! Connection handler of identify.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, future::Either};
use libp2p::{
    Multiaddr, Stream, StreamProtocol,
    core::upgrade::{ReadyUpgrade, SelectUpgrade},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{
            ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound, ProtocolsChange,
        },
    },
};

use super::{Identify, LocalInfo};
use crate::relay::wire::{self, MAX_MESSAGE_BYTES};

/// The peer that opens the stream reads the message.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/id/1.0.0");
/// The peer that opens the stream sends the message.
const PUSH_PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/id/push/1.0.0");
/// Deadline of a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// Streams of one connection that are served at once; further ones are reset.
const MAX_STREAMS: usize = 10;

/// Instructs the handler to push the current message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push;

/// Handler of one connection; see the module documentation.
#[derive(Debug)]
pub struct Handler {
    local: Arc<LocalInfo>,
    /// Observed address of the peer.
    observed: Multiaddr,
    /// Protocols of the connection.
    protocols: Vec<StreamProtocol>,
    push_pending: bool,
    /// Whether the peer has requested the message.
    is_used: bool,
    /// Each stream being served holds a clone, so the reference count is the number of streams plus
    /// one.
    serving: Arc<()>,
}

impl Handler {
    pub(super) fn new(local: Arc<LocalInfo>, observed: Multiaddr) -> Self {
        Self {
            local,
            observed,
            protocols: Vec::new(),
            push_pending: false,
            is_used: false,
            serving: Arc::default(),
        }
    }

    fn message(&self) -> Identify {
        let protocols = self.protocols.iter().map(ToString::to_string).collect();
        self.local.message(&self.observed, protocols)
    }

    fn send_message(&self, stream: Stream) {
        self.serve(send(stream, self.message()));
    }

    /// Errors of a stream are ignored: they affect only the peer.
    fn serve(&self, stream: impl Future<Output = io::Result<()>> + Send + 'static) {
        if Arc::strong_count(&self.serving) > MAX_STREAMS {
            return;
        }
        let serving = Arc::clone(&self.serving);
        self.local
            .lifecycle
            .spawn_cancellable("identify", async move {
                let _ = tokio::time::timeout(STREAM_TIMEOUT, stream).await;
                drop(serving);
            });
    }
}

async fn send(mut stream: Stream, message: Identify) -> io::Result<()> {
    wire::write(&mut stream, &message).await?;
    stream.close().await
}

/// Reads the message of a peer and discards it, so that the peer does not see a failure.
async fn discard(stream: Stream) -> io::Result<()> {
    let most = u64::try_from(MAX_MESSAGE_BYTES).unwrap_or(u64::MAX);
    let mut nowhere = futures::io::sink();
    futures::io::copy(stream.take(most), &mut nowhere).await?;
    Ok(())
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Push;
    type ToBehaviour = Infallible;
    type InboundProtocol =
        SelectUpgrade<ReadyUpgrade<StreamProtocol>, ReadyUpgrade<StreamProtocol>>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        let identify = ReadyUpgrade::new(PROTOCOL);
        let push = ReadyUpgrade::new(PUSH_PROTOCOL);
        SubstreamProtocol::new(SelectUpgrade::new(identify, push), ())
    }

    /// The address at which the relay observes a peer lasts as long as the connection: clients discard
    /// it afterwards.
    fn connection_keep_alive(&self) -> bool {
        self.is_used && self.local.resources.has_room()
    }

    fn on_behaviour_event(&mut self, Push: Push) {
        self.push_pending = true;
    }

    fn poll(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Infallible>> {
        if !std::mem::take(&mut self.push_pending) {
            return Poll::Pending;
        }
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PUSH_PROTOCOL), ());
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => match protocol {
                Either::Left(stream) => {
                    self.is_used = true;
                    self.send_message(stream);
                }
                Either::Right(stream) => self.serve(discard(stream)),
            },
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                ..
            }) => self.send_message(stream),
            ConnectionEvent::AddressChange(change) => self.observed = change.new_address.clone(),
            ConnectionEvent::LocalProtocolsChange(ProtocolsChange::Added(added)) => {
                self.protocols.extend(added.cloned());
                self.protocols.shrink_to_fit();
            }
            ConnectionEvent::LocalProtocolsChange(ProtocolsChange::Removed(removed)) => {
                for gone in removed {
                    self.protocols.retain(|protocol| protocol != gone);
                }
            }
            // A peer without support for push requests the message again later.
            _ => {}
        }
    }
}
