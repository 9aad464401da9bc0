//! The handshake, and an established connection as a muxer of streams.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, Fuse, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{ConnectionError, RecvStream, SendStream};
use tokio::time::Sleep;

use super::config::FIRST_STREAMS;
use super::credit::CreditPool;
use super::flow_control::{FlowControl, Windows};
use super::send_window::SendWindow;
use super::stream::Undelivered;
use super::{Config, Error, Stream, address, tls};
use crate::metrics::{ConnectionGuard, Handshake};
use crate::resources::Relief;
use crate::transport::{ConnectionGater, slack};

/// How long the end of a connection may take until its peer has everything.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How late a check of what connections hold may be.
const CHECK_SLACK: Duration = Duration::from_millis(50);

/// The bounds of a connection that are not quinn's to keep.
#[derive(Clone)]
pub(super) struct Limits {
    handshake_timeout: Duration,
    max_streams: u32,
    windows: Windows,
    credit: CreditPool,
    gater: ConnectionGater,
}

impl Limits {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            handshake_timeout: config.handshake_timeout,
            max_streams: config.max_streams,
            windows: Windows {
                receive: config.receive_window.into(),
                stream: config.stream_receive_window.into(),
                send: config.send_window,
            },
            credit: config.credit.clone(),
            gater: config.gater.clone(),
        }
    }
}

/// Waits for a connection to be established, and tells whose it is.
pub(super) async fn handshake(
    connecting: quinn::Connecting,
    limits: Limits,
    handshake: Handshake,
) -> Result<(PeerId, Connection), Error> {
    let connection = tokio::time::timeout(limits.handshake_timeout, connecting)
        .await
        .map_err(|_| Error::HandshakeTimeout)??;
    let peer = tls::peer_id(&connection)?;
    let counted = handshake.complete();
    Ok((peer, Connection::new(connection, &limits, counted)))
}

type Streams = BoxStream<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// An established QUIC connection.
///
/// It is closed by [`poll_close`](StreamMuxer::poll_close), and when the muxer and all of its
/// streams are dropped, both with the application error code 0.
pub struct Connection {
    quic: quinn::Connection,
    remote: SocketAddr,
    inbound: Streams,
    outbound: Streams,
    closed: Fuse<BoxFuture<'static, ConnectionError>>,
    undelivered: Undelivered,
    allowance: Allowance,
    send_window: SendWindow,
    flow: Arc<FlowControl>,
    /// When the flow control is checked, if it has to be.
    check: Option<Pin<Box<Sleep>>>,
    gater: ConnectionGater,
    /// Counts it for as long as it is there.
    _open: ConnectionGuard,
    /// When the end of the connection is given up.
    close_timeout: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(connection: quinn::Connection, limits: &Limits, counted: ConnectionGuard) -> Self {
        // Futures that are kept, not made anew for each poll: their wakers live in them.
        let accept = |connection: quinn::Connection| async move {
            Some((connection.accept_bi().await, connection))
        };
        let open = |connection: quinn::Connection| async move {
            Some((connection.open_bi().await, connection))
        };
        let closed = connection.clone();
        let remote = connection.remote_address();
        let flow = FlowControl::new(
            connection.clone(),
            limits.gater.resources().clone(),
            limits.windows,
            limits.credit.credit(remote.ip()),
            remote.ip(),
        );
        Self {
            remote,
            inbound: stream::unfold(connection.clone(), accept).boxed(),
            outbound: stream::unfold(connection.clone(), open).boxed(),
            closed: async move { closed.closed().await }.boxed().fuse(),
            undelivered: Undelivered::default(),
            allowance: Allowance::new(limits.max_streams),
            send_window: SendWindow::new(
                connection.clone(),
                limits.windows.send,
                Arc::clone(&flow),
            ),
            flow,
            check: None,
            gater: limits.gater.clone(),
            _open: counted,
            close_timeout: None,
            quic: connection,
        }
    }

    #[cfg(test)]
    pub(super) fn flow(&self) -> Arc<FlowControl> {
        Arc::clone(&self.flow)
    }

    fn stream(&self, send: SendStream, recv: RecvStream) -> Stream {
        self.send_window.fit();
        let (undelivered, send_window) = (self.undelivered.clone(), self.send_window.clone());
        Stream::new(send, recv, undelivered, self.flow.stream(), send_window)
    }

    /// Does what has to be done when memory runs out, and keeps the account up to date.
    fn poll_flow_control(&mut self, cx: &mut Context<'_>) {
        match self.flow.poll_relief(cx) {
            Poll::Ready(Relief::ResetStreams) => {
                self.flow.reset_streams();
                // What that released is known soon, before more relief is requested.
                self.check = None;
            }
            Poll::Ready(Relief::Close) => {
                self.gater.shed();
                self.quic.close(0_u8.into(), b"out of memory");
            }
            Poll::Pending => {}
        }
        while self.flow.is_watched() {
            let check = self
                .check
                .get_or_insert_with(|| check_after(Duration::from_millis(50)));
            if check.as_mut().poll(cx).is_pending() {
                break;
            }
            self.send_window.fit();
            self.check = self.flow.check().map(check_after);
        }
    }
}

fn check_after(delay: Duration) -> Pin<Box<Sleep>> {
    let at = slack::common(Instant::now() + delay, CHECK_SLACK);
    Box::pin(tokio::time::sleep_until(at.into()))
}

/// How many streams the peer may have open.
///
/// quinn keeps room in its tables for every stream that the peer may open. Most peers open a few
/// one after the other, so the room for [`Config::max_streams`] is only made for those that use it.
struct Allowance {
    allowed: u32,
    most: u32,
}

impl Allowance {
    fn new(most: u32) -> Self {
        Self {
            allowed: most.min(FIRST_STREAMS),
            most,
        }
    }

    /// More, once half of it is in use by so many `streams`.
    fn raise(&mut self, streams: usize) -> Option<u32> {
        let is_used = streams.saturating_mul(2) >= usize::try_from(self.allowed).ok()?;
        if !is_used || self.allowed >= self.most {
            return None;
        }
        self.allowed = self.allowed.saturating_mul(2).min(self.most);
        Some(self.allowed)
    }
}

/// The next of an unending row of streams.
fn poll_next(
    streams: &mut Streams,
    cx: &mut Context<'_>,
) -> Poll<Result<(SendStream, RecvStream), ConnectionError>> {
    streams
        .poll_next_unpin(cx)
        .map(|next| next.unwrap_or(Err(ConnectionError::LocallyClosed)))
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let next = poll_next(&mut self.inbound, cx);
        let (send, recv) = ready!(next)?;
        let stream = self.stream(send, recv);
        let streams = self.undelivered.streams();
        if let Some(allowed) = self.allowance.raise(streams) {
            self.quic.set_max_concurrent_bi_streams(allowed.into());
        }
        Poll::Ready(Ok(stream))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let (send, recv) = ready!(poll_next(&mut self.outbound, cx))?;
        Poll::Ready(Ok(self.stream(send, recv)))
    }

    /// Waits, not for long, until the peer has what finished streams carried, and closes. While
    /// memory is short nobody is waited for.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let timeout = self
            .close_timeout
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        if timeout.as_mut().poll(cx).is_pending() && !self.gater.resources().under_pressure() {
            ready!(self.undelivered.poll_delivered(cx));
        }
        self.quic.close(0_u8.into(), b"");
        Poll::Ready(Ok(()))
    }

    /// Tells the loss of the connection, and changes of the peer's address.
    ///
    /// quinn has no event for a migration. The address is compared whenever the connection is
    /// polled for another reason, so a change is told with the next stream, ping or close.
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        if let Poll::Ready(error) = self.closed.poll_unpin(cx) {
            return Poll::Ready(Err(error));
        }
        self.poll_flow_control(cx);
        let remote = self.quic.remote_address();
        if remote != self.remote {
            self.remote = remote;
            self.flow.migrated();
            self.send_window.fit();
            let change = StreamMuxerEvent::AddressChange(address::format(remote));
            return Poll::Ready(Ok(change));
        }
        Poll::Pending
    }
}
