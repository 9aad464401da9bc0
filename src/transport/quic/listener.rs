//! Who is let in, who has to prove its address first, and who is refused.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::FutureExt;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use libp2p::PeerId;
use libp2p::core::transport::{ListenerId, TransportEvent};

use super::connection::Limits;
use super::interfaces::{Change, Interfaces};
use super::{Config, Connection, Error, Event, address, connection};
use crate::connection_deny_reason::ConnectionDenyReason;
use crate::metrics::Handshakes;
use crate::transport::admission::{ConnectionGater, RateLimited};

/// So many newcomers are turned away in one go before others get their turn.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// One listening socket; also after its removal, when it refuses everybody.
pub(super) struct Listener {
    id: ListenerId,
    endpoint: quinn::Endpoint,
    local: SocketAddr,
    incoming: BoxStream<'static, quinn::Incoming>,
    interfaces: Interfaces,
    removed: bool,
    /// Every unfinished handshake holds a clone, so its count is their number, plus one.
    pending: Arc<()>,
    limits: Limits,
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
            limits: Limits::new(config),
            retry_above: config.retry_above,
            max_pending: config.max_pending,
            handshakes: config.handshakes.clone(),
            gater: config.gater.clone(),
        })
    }

    /// Refuses everybody from now on. `false` if it goes by another id, or was removed before.
    pub(super) fn remove(&mut self, id: ListenerId) -> bool {
        let remove = self.id == id && !self.removed;
        self.removed |= remove;
        remove
    }

    fn pending(&self) -> usize {
        Arc::strong_count(&self.pending).saturating_sub(1)
    }

    /// Decides on a newcomer; `None` if it was turned away.
    fn admit(&self, incoming: quinn::Incoming) -> Option<Event> {
        let pending = self.pending();
        let remote = incoming.remote_address();
        let is_proven = incoming.remote_address_validated();
        let denied = if self.removed {
            Some(ConnectionDenyReason::Draining.as_str())
        } else if pending >= self.max_pending {
            Some(ConnectionDenyReason::MaxPending.as_str())
        } else if let Err(cause) = self.gater.resources().check_memory(Some(remote.ip())) {
            Some(cause.reason())
        } else if is_proven && self.gater.check_validated(remote.ip()).is_err() {
            Some(RateLimited::REASON)
        } else {
            None
        };
        if let Some(reason) = denied {
            self.gater.refused(reason);
            incoming.refuse();
            return None;
        }
        // An address that is not proven may be somebody else's, and is not refused: it is to prove
        // itself, or counts when its handshake has.
        let must_prove =
            || pending >= self.retry_above || self.gater.check_unvalidated(remote.ip()).is_err();
        if !is_proven && must_prove() {
            // It can only fail for who answered a Retry before; dropped, it is refused.
            drop(incoming.retry());
            return None;
        }
        let uncounted = (!is_proven).then(|| Uncounted {
            gater: self.gater.clone(),
            ip: remote.ip(),
        });
        let local = SocketAddr::new(
            incoming.local_ip().unwrap_or(self.local.ip()),
            self.local.port(),
        );
        let accept = accept(
            incoming,
            self.limits.clone(),
            self.handshakes.clone(),
            uncounted,
            Arc::clone(&self.pending),
        );
        Some(TransportEvent::Incoming {
            listener_id: self.id,
            local_addr: address::format(local),
            send_back_addr: address::format(remote),
            upgrade: self
                .gater
                .limit_handshake(is_proven.then(|| remote.ip()), accept)
                .boxed(),
        })
    }

    fn event(&self, change: Change) -> Event {
        let listener_id = self.id;
        match change {
            Change::Up(addr) => TransportEvent::NewAddress {
                listener_id,
                listen_addr: address::format(addr),
            },
            Change::Down(addr) => TransportEvent::AddressExpired {
                listener_id,
                listen_addr: address::format(addr),
            },
            Change::Lost(error) => TransportEvent::ListenerError {
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
        for _ in 0..TURNED_AWAY_AT_ONCE {
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
    /// Nobody is left to decide on newcomers, and live connections keep the socket open: do not let
    /// newcomers queue up behind it.
    fn drop(&mut self) {
        self.endpoint.set_server_config(None);
    }
}

/// A newcomer whose handshake is the proof of its address.
struct Uncounted {
    gater: ConnectionGater,
    ip: IpAddr,
}

impl Uncounted {
    fn count(self) -> Result<(), RateLimited> {
        let admitted = self.gater.check_validated(self.ip);
        if admitted.is_err() {
            self.gater.refused(RateLimited::REASON);
        }
        admitted
    }
}

/// Begins the handshake when first polled; dropped before that, the newcomer is refused, without
/// any cryptography spent on it.
async fn accept(
    incoming: quinn::Incoming,
    limits: Limits,
    handshakes: Handshakes,
    uncounted: Option<Uncounted>,
    guard: Arc<()>,
) -> Result<(PeerId, Connection), Error> {
    let handshake = handshakes.begin(super::TLS);
    let result = connection::handshake(incoming.accept()?, limits, handshake).await;
    drop(guard);
    let established = result?;
    uncounted.map_or(Ok(()), Uncounted::count)?;
    Ok(established)
}
