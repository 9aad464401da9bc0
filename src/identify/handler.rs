//! Connection handler of identify.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use circuit_relay::wire;
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

/// The peer that opens the stream reads the message.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/id/1.0.0");
/// The peer that opens the stream sends the message.
const PUSH_PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/id/push/1.0.0");
/// Deadline of a stream, after the negotiation of its protocol.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// Deadline of the answer to a request, after the negotiation of the protocol.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for the negotiation of the protocol of a request. Until then the connection does not count
/// as idle.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum length of an answer or push in bytes; the stream is reset if there are more. Other
/// implementations accept messages of 4 KiB (Rust) to 8 KiB (JavaScript).
const MAX_RECEIVED_BYTES: u64 = 16 * 1024;
/// Streams of one connection that are served at once; further ones are reset.
const MAX_STREAMS: usize = 10;

/// Instructs the handler to push the current message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push;

/// Why a stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To read the message of the peer.
    Request,
    /// To send the current message.
    Push,
}

/// Handler of one connection; see the module documentation.
#[derive(Debug)]
pub struct Handler {
    local: Arc<LocalInfo>,
    /// Observed address of the peer.
    observed: Multiaddr,
    /// Protocols of the connection.
    protocols: Vec<StreamProtocol>,
    request_pending: bool,
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
            request_pending: false,
            push_pending: false,
            is_used: false,
            serving: Arc::default(),
        }
    }

    /// The same handler, which also sends a request.
    pub(super) fn with_request(self) -> Self {
        Self {
            request_pending: true,
            ..self
        }
    }

    fn message(&self) -> Identify {
        let protocols = self.protocols.iter().map(ToString::to_string).collect();
        self.local.message(&self.observed, protocols)
    }

    fn send_message(&self, stream: Stream) {
        self.serve(STREAM_TIMEOUT, send(stream, self.message()));
    }

    /// Errors of a stream are ignored: they affect only the peer.
    fn serve(
        &self,
        deadline: Duration,
        stream: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        if Arc::strong_count(&self.serving) > MAX_STREAMS {
            return;
        }
        let serving = Arc::clone(&self.serving);
        self.local
            .lifecycle
            .spawn_cancellable("identify", async move {
                let _ = tokio::time::timeout(deadline, stream).await;
                drop(serving);
            });
    }
}

async fn send(mut stream: Stream, message: Identify) -> io::Result<()> {
    wire::write(&mut stream, &message).await?;
    stream.close().await
}

/// Reads the message of a peer and discards it, so that the peer does not see a failure. If it is too
/// long, the stream is reset.
async fn discard(mut stream: Stream) -> io::Result<()> {
    let mut message = (&mut stream).take(MAX_RECEIVED_BYTES);
    let read = futures::io::copy(&mut message, &mut futures::io::sink()).await?;
    if read < MAX_RECEIVED_BYTES {
        stream.close().await?;
    }
    Ok(())
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Push;
    type ToBehaviour = Infallible;
    type InboundProtocol =
        SelectUpgrade<ReadyUpgrade<StreamProtocol>, ReadyUpgrade<StreamProtocol>>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Purpose;

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
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Purpose, Infallible>> {
        let protocol = if std::mem::take(&mut self.request_pending) {
            SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), Purpose::Request)
                .with_timeout(REQUEST_TIMEOUT)
        } else if std::mem::take(&mut self.push_pending) {
            SubstreamProtocol::new(ReadyUpgrade::new(PUSH_PROTOCOL), Purpose::Push)
        } else {
            return Poll::Pending;
        };
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Purpose>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => match protocol {
                Either::Left(stream) => {
                    self.is_used = true;
                    self.send_message(stream);
                }
                Either::Right(stream) => self.serve(STREAM_TIMEOUT, discard(stream)),
            },
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: mut stream,
                info,
            }) => match info {
                Purpose::Request => {
                    stream.ignore_for_keep_alive();
                    self.serve(ANSWER_TIMEOUT, discard(stream));
                }
                Purpose::Push => self.send_message(stream),
            },
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
            // Peers need not support either protocol. Those without push request the message again later.
            _ => {}
        }
    }
}
