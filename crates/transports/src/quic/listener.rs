//! A listener: incoming connections are accepted, retried for address validation, or refused.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::FutureExt;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use libp2p::PeerId;
use libp2p::core::transport::{ListenerId, TransportEvent};
use resource_manager::ConnectionDenyReason;

use super::connection::ConnectionConfig;
use super::interfaces::{AddressChange, Interfaces};
use super::{Config, Connection, Error, Event, address, connection};
use crate::admission::{ConnectionGater, RateLimited};
use crate::handshakes::Handshakes;

/// The maximum number of incoming connections that are refused or retried in one poll, before the task
/// yields.
const MAX_REFUSALS_PER_POLL: usize = 64;

/// A listening endpoint. After its removal it refuses all connections.
pub(super) struct Listener {
    id: ListenerId,
    endpoint: quinn::Endpoint,
    local: SocketAddr,
    incoming: BoxStream<'static, quinn::Incoming>,
    interfaces: Interfaces,
    removed: bool,
    /// Every pending handshake holds a clone, so the reference count is their number plus one.
    pending: Arc<()>,
    connection_config: ConnectionConfig,
    retry_above: usize,
    max_pending: usize,
    handshakes: Handshakes,
    gater: ConnectionGater,
}

impl Listener {
    pub(super) fn new(
        id: ListenerId,
        endpoint: quinn::Endpoint,
        config: &Config,
    ) -> Result<Self, Error> {
        let local = endpoint.local_addr()?;
        let accept = |endpoint: quinn::Endpoint| async move {
            let incoming = endpoint.accept().await?;
            Some((incoming, endpoint))
        };
        Ok(Self {
            id,
            local,
            incoming: stream::unfold(endpoint.clone(), accept).fuse().boxed(),
            interfaces: Interfaces::new(local)?,
            endpoint,
            removed: false,
            pending: Arc::new(()),
            connection_config: ConnectionConfig::new(config),
            retry_above: config.retry_above,
            max_pending: config.max_pending,
            handshakes: config.handshakes.clone(),
            gater: config.gater.clone(),
        })
    }

    /// Refuses all connections from now on. Returns `false` if the listener has another id, or was
    /// removed before.
    pub(super) fn remove(&mut self, id: ListenerId) -> bool {
        let remove = self.id == id && !self.removed;
        self.removed |= remove;
        remove
    }

    fn pending(&self) -> usize {
        Arc::strong_count(&self.pending).saturating_sub(1)
    }

    /// Decides on an incoming connection. Returns `None` if it was refused or retried.
    ///
    /// The rate is checked last, so that a connection which is refused for another reason does not
    /// count against the rate of its address.
    fn admit(&self, incoming: quinn::Incoming) -> Option<Event> {
        let pending = self.pending();
        let remote = incoming.remote_address();
        let is_validated = incoming.remote_address_validated();
        let denied = if self.removed {
            Some(ConnectionDenyReason::Draining.as_str())
        } else if pending >= self.max_pending {
            Some(ConnectionDenyReason::MaxPending.as_str())
        } else if let Err(cause) = self.gater.resources().check_memory(Some(remote.ip())) {
            Some(cause.reason())
        } else if is_validated && self.gater.check_validated(remote.ip()).is_err() {
            Some(RateLimited::REASON)
        } else {
            None
        };
        if let Some(reason) = denied {
            self.gater.record_refusal(reason);
            incoming.refuse();
            return None;
        }
        // A source address that is not validated may be forged. So it is not refused, which would let
        // an attacker block the owner of the address. It is validated by Retry, or the connection is
        // counted once the handshake has validated it.
        let needs_retry =
            || pending >= self.retry_above || self.gater.check_unvalidated(remote.ip()).is_err();
        if !is_validated && needs_retry() {
            // Fails only if the client has answered a Retry before, which `is_validated` excludes.
            drop(incoming.retry());
            return None;
        }
        let unvalidated = (!is_validated).then(|| UnvalidatedSource {
            gater: self.gater.clone(),
            ip: remote.ip(),
        });
        let local = SocketAddr::new(
            incoming.local_ip().unwrap_or(self.local.ip()),
            self.local.port(),
        );
        let accept = accept(
            incoming,
            self.connection_config.clone(),
            self.handshakes.clone(),
            unvalidated,
            Arc::clone(&self.pending),
        );
        Some(TransportEvent::Incoming {
            listener_id: self.id,
            local_addr: address::format(local),
            send_back_addr: address::format(remote),
            upgrade: self
                .gater
                .limit_handshake(is_validated.then(|| remote.ip()), accept)
                .boxed(),
        })
    }

    fn event(&self, change: AddressChange) -> Event {
        let listener_id = self.id;
        match change {
            AddressChange::Added(addr) => TransportEvent::NewAddress {
                listener_id,
                listen_addr: address::format(addr),
            },
            AddressChange::Expired(addr) => TransportEvent::AddressExpired {
                listener_id,
                listen_addr: address::format(addr),
            },
            AddressChange::WatchFailed(error) => TransportEvent::ListenerError {
                listener_id,
                error: error.into(),
            },
        }
    }
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if !self.removed
            && let Poll::Ready(change) = self.interfaces.poll(cx)
        {
            return Poll::Ready(Some(self.event(change)));
        }
        for _ in 0..MAX_REFUSALS_PER_POLL {
            match ready!(self.incoming.poll_next_unpin(cx)) {
                Some(incoming) => {
                    if let Some(event) = self.admit(incoming) {
                        return Poll::Ready(Some(event));
                    }
                }
                None if self.removed => return Poll::Ready(None),
                None => {
                    self.removed = true;
                    return Poll::Ready(Some(TransportEvent::ListenerClosed {
                        listener_id: self.id,
                        reason: Err(Error::EndpointStopped),
                    }));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Listener {
    /// Established connections keep the endpoint open, and incoming connections would queue up
    /// without a listener that decides on them: stop accepting them.
    fn drop(&mut self) {
        self.endpoint.set_server_config(None);
    }
}

/// A source address that is validated by the completion of the handshake, and is counted then.
struct UnvalidatedSource {
    gater: ConnectionGater,
    ip: IpAddr,
}

impl UnvalidatedSource {
    fn check(self) -> Result<(), RateLimited> {
        let admitted = self.gater.check_validated(self.ip);
        if admitted.is_err() {
            self.gater.record_refusal(RateLimited::REASON);
        }
        admitted
    }
}

/// Accepts a connection when it is first polled. If it is dropped before that, the connection is
/// refused at no cryptographic cost.
async fn accept(
    incoming: quinn::Incoming,
    config: ConnectionConfig,
    handshakes: Handshakes,
    unvalidated: Option<UnvalidatedSource>,
    guard: Arc<()>,
) -> Result<(PeerId, Connection), Error> {
    let handshake = handshakes.begin(super::TLS);
    let result = connection::handshake(incoming.accept()?, config, handshake).await;
    drop(guard);
    let established = result?;
    unvalidated.map_or(Ok(()), UnvalidatedSource::check)?;
    Ok(established)
}
