//! Connection handler: serves requests, and dials back over connections that were dialled for one.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    InboundUpgrade, Multiaddr, PeerId, Stream, StreamProtocol,
    core::{UpgradeInfo, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::{sync::oneshot, time::timeout};

use super::{Dial, DialResult, Server, Version, Versions, v1, v2};

/// Requests of one connection that are served at once; further ones are reset. A client of
/// rust-libp2p sends up to ten.
const MAX_REQUESTS: usize = 10;
/// Deadline of a request: to read it, to dial, and to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The dial back is over, so the connection can be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished;

/// Handler of one connection; see the module documentation.
pub struct Handler {
    server: Arc<Server>,
    peer: PeerId,
    versions: Versions,
    /// Requests, or the stream of the dial back.
    tasks: Vec<BoxFuture<'static, ()>>,
    /// Whether a request has been received.
    is_used: bool,
    /// State of the dial back, on a connection that was dialled for one.
    dial_back: Option<Box<DialBack>>,
}

/// State of a dial back.
enum DialBack {
    /// The nonce, if there is one, has to be sent, and the result reported.
    Pending {
        nonce: Option<u64>,
        reached: Multiaddr,
        result: oneshot::Sender<DialResult>,
    },
    /// The stream for the nonce is being opened.
    Opening {
        nonce: u64,
        reached: Multiaddr,
        result: oneshot::Sender<DialResult>,
    },
    /// A task sends the nonce.
    Sending,
    /// The behaviour has been notified.
    Finished,
}

impl Handler {
    /// For a connection of `peer` to the relay, over which requests of `versions` are served.
    pub(super) fn serving(server: Arc<Server>, peer: PeerId, versions: Versions) -> Self {
        Self {
            server,
            peer,
            versions,
            tasks: Vec::new(),
            is_used: false,
            dial_back: None,
        }
    }

    /// For a connection that was dialled at `reached`. No requests are served over it.
    pub(super) fn dialling_back(server: Arc<Server>, dial: Dial, reached: Multiaddr) -> Self {
        let dial_back = DialBack::Pending {
            nonce: dial.nonce,
            reached,
            result: dial.result,
        };
        Self {
            dial_back: Some(Box::new(dial_back)),
            ..Self::serving(server, dial.peer, Versions::NONE)
        }
    }

    fn serve(&mut self, version: Version, stream: Stream) {
        self.is_used = true;
        if self.tasks.len() >= MAX_REQUESTS {
            return;
        }
        let (server, peer) = (Arc::clone(&self.server), self.peer);
        let request = async move {
            match version {
                Version::V1 => v1::serve(&server, peer, stream).await,
                Version::V2 => v2::serve(&server, peer, stream).await,
            }
        };
        let bounded = timeout(REQUEST_TIMEOUT, request).map(|_| ());
        self.tasks.push(bounded.boxed());
    }

    fn send_nonce(&mut self, stream: Stream) {
        let Some(dial_back) = &mut self.dial_back else {
            return;
        };
        let state = std::mem::replace(&mut **dial_back, DialBack::Sending);
        if let DialBack::Opening {
            nonce,
            reached,
            result,
        } = state
        {
            let task = async move {
                let sent = v2::send_nonce(stream, nonce).await;
                // The request may have been cancelled.
                let _ = result.send(if sent {
                    DialResult::Reached(reached)
                } else {
                    DialResult::DialBackFailed
                });
            };
            self.tasks.push(task.boxed());
        }
    }

    /// The stream for the nonce could not be opened.
    fn dial_back_failed(&mut self) {
        let Some(dial_back) = &mut self.dial_back else {
            return;
        };
        let state = std::mem::replace(&mut **dial_back, DialBack::Sending);
        if let DialBack::Opening { result, .. } = state {
            let _ = result.send(DialResult::DialBackFailed);
        }
    }

    /// The next step of the dial back.
    fn poll_dial_back(
        &mut self,
    ) -> Option<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Finished>> {
        let is_sent = self.tasks.is_empty();
        let dial_back = &mut **self.dial_back.as_mut()?;
        match std::mem::replace(dial_back, DialBack::Finished) {
            DialBack::Pending {
                nonce: None,
                reached,
                result,
            } => {
                let _ = result.send(DialResult::Reached(reached));
            }
            DialBack::Pending {
                nonce: Some(nonce),
                reached,
                result,
            } => {
                *dial_back = DialBack::Opening {
                    nonce,
                    reached,
                    result,
                };
                let upgrade = ReadyUpgrade::new(v2::DIAL_BACK_PROTOCOL);
                let protocol = SubstreamProtocol::new(upgrade, ()).with_timeout(v2::WRITE_TIMEOUT);
                return Some(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
            DialBack::Sending if is_sent => {}
            DialBack::Finished => return None,
            state @ (DialBack::Opening { .. } | DialBack::Sending) => {
                *dial_back = state;
                return None;
            }
        }
        Some(ConnectionHandlerEvent::NotifyBehaviour(Finished))
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Finished;
    type InboundProtocol = Versions;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(self.versions, ())
    }

    /// The address at which the relay observes a peer, and the mapping of its NAT, last as long as the
    /// connection.
    fn connection_keep_alive(&self) -> bool {
        self.is_used && self.server.resources.has_room()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Finished>> {
        if !self.tasks.is_empty() {
            self.tasks
                .retain_mut(|task| task.poll_unpin(cx).is_pending());
            if self.tasks.is_empty() {
                self.tasks = Vec::new();
            }
        }
        self.poll_dial_back().map_or(Poll::Pending, Poll::Ready)
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (version, stream),
                ..
            }) => self.serve(version, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                ..
            }) => self.send_nonce(stream),
            ConnectionEvent::DialUpgradeError(_) => self.dial_back_failed(),
            _ => {}
        }
    }
}

impl UpgradeInfo for Versions {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        let protocols: Vec<_> = self.iter().map(Version::protocol).collect();
        protocols.into_iter()
    }
}

impl InboundUpgrade<Stream> for Versions {
    type Output = (Version, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        let version = if protocol == Version::V1.protocol() {
            Version::V1
        } else {
            Version::V2
        };
        ready(Ok((version, stream)))
    }
}
