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
use resource_manager::Relief;
use tokio::time::Sleep;

use super::config::FIRST_STREAMS;
use super::credit::CreditPool;
use super::flow_control::{FlowControl, WindowLimits};
use super::send_window::SendWindow;
use super::stream::UnackedStreams;
use super::{Config, Error, Stream, address, tls_config};
use crate::handshakes::{ConnectionGuard, Handshake};
use crate::{ConnectionGater, timer_coalescing};

/// The maximum time for which an orderly close waits for acknowledgements.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The interval to which checks of the flow control are coalesced.
const CHECK_COALESCING_INTERVAL: Duration = Duration::from_millis(50);

/// The settings of a connection that quinn does not implement.
#[derive(Clone)]
pub(super) struct ConnectionConfig {
    handshake_timeout: Duration,
    max_streams: u32,
    windows: WindowLimits,
    credit: CreditPool,
    gater: ConnectionGater,
}

impl ConnectionConfig {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            handshake_timeout: config.handshake_timeout,
            max_streams: config.max_streams,
            windows: WindowLimits {
                receive: config.receive_window.into(),
                stream: config.stream_receive_window.into(),
                send: config.send_window,
            },
            credit: config.credit.clone(),
            gater: config.gater.clone(),
        }
    }
}

/// Waits until a connection is established. Returns it with the authenticated id of its peer.
pub(super) async fn handshake(
    connecting: quinn::Connecting,
    config: ConnectionConfig,
    handshake: Handshake,
) -> Result<(PeerId, Connection), Error> {
    let connection = tokio::time::timeout(config.handshake_timeout, connecting)
        .await
        .map_err(|_| Error::HandshakeTimeout)??;
    let peer = tls_config::peer_id(&connection)?;
    let counted = handshake.complete();
    Ok((peer, Connection::new(connection, &config, counted)))
}

type Streams = BoxStream<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// An established QUIC connection.
///
/// [`poll_close`](StreamMuxer::poll_close) closes it, and so does dropping the muxer and all of its
/// streams, both with the application error code 0.
pub struct Connection {
    quic: quinn::Connection,
    remote: SocketAddr,
    inbound: Streams,
    outbound: Streams,
    closed: Fuse<BoxFuture<'static, ConnectionError>>,
    unacked: UnackedStreams,
    stream_limit: StreamLimit,
    send_window: SendWindow,
    flow: Arc<FlowControl>,
    /// The timer of the next check of the flow control, if one is needed.
    check: Option<Pin<Box<Sleep>>>,
    gater: ConnectionGater,
    /// Counts the connection while it exists.
    _open: ConnectionGuard,
    /// The deadline of an orderly close.
    close_timeout: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(
        connection: quinn::Connection,
        config: &ConnectionConfig,
        counted: ConnectionGuard,
    ) -> Self {
        // The futures are kept between polls: dropping one would drop the waker that it registered.
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
            config.gater.resources().clone(),
            config.windows,
            config.credit.credit(remote.ip()),
            remote.ip(),
        );
        Self {
            remote,
            inbound: stream::unfold(connection.clone(), accept).boxed(),
            outbound: stream::unfold(connection.clone(), open).boxed(),
            closed: async move { closed.closed().await }.boxed().fuse(),
            unacked: UnackedStreams::default(),
            stream_limit: StreamLimit::new(config.max_streams),
            send_window: SendWindow::new(
                connection.clone(),
                config.windows.send,
                Arc::clone(&flow),
            ),
            flow,
            check: None,
            gater: config.gater.clone(),
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
        self.send_window.update();
        let (unacked, send_window) = (self.unacked.clone(), self.send_window.clone());
        Stream::new(send, recv, unacked, self.flow.stream(), send_window)
    }

    /// Carries out requested relief, and updates the memory account.
    fn poll_flow_control(&mut self, cx: &mut Context<'_>) {
        match self.flow.poll_relief(cx) {
            Poll::Ready(Relief::ResetStreams) => {
                self.flow.reset_streams();
                // Checks soon, so that the released memory is accounted for before more relief is
                // requested.
                self.check = None;
            }
            Poll::Ready(Relief::Close) => {
                self.gater.record_memory_close();
                self.quic.close(0_u8.into(), b"out of memory");
            }
            Poll::Pending => {}
        }
        // The loop ends: `check` either requests no further check, or its timer is pending.
        while self.flow.needs_check() {
            let check = self
                .check
                .get_or_insert_with(|| check_after(Duration::from_millis(50)));
            if check.as_mut().poll(cx).is_pending() {
                break;
            }
            self.send_window.update();
            self.check = self.flow.check().map(check_after);
        }
    }
}

fn check_after(delay: Duration) -> Pin<Box<Sleep>> {
    let at = timer_coalescing::round_up(Instant::now() + delay, CHECK_COALESCING_INTERVAL);
    Box::pin(tokio::time::sleep_until(at.into()))
}

/// The limit of concurrent streams that the peer may open.
///
/// quinn allocates state for every stream that the peer may open. Most peers have a few streams at a
/// time, so the limit is raised to [`Config::max_streams`] only for peers that use it. It is never
/// lowered: QUIC has no way to revoke it.
struct StreamLimit {
    current: u32,
    max: u32,
}

impl StreamLimit {
    fn new(max: u32) -> Self {
        Self {
            current: max.min(FIRST_STREAMS),
            max,
        }
    }

    /// Doubles the limit, up to the maximum, once `streams` are at least half of it. Returns the new
    /// limit if it has changed. It is raised early because the peer learns of it a round trip later.
    fn raise(&mut self, streams: usize) -> Option<u32> {
        let is_used = streams.saturating_mul(2) >= usize::try_from(self.current).ok()?;
        if !is_used || self.current >= self.max {
            return None;
        }
        self.current = self.current.saturating_mul(2).min(self.max);
        Some(self.current)
    }
}

/// Polls for the next stream; the stream of streams does not end.
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
        let streams = self.unacked.streams();
        if let Some(allowed) = self.stream_limit.raise(streams) {
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

    /// Waits until the peer has acknowledged all data of finished streams, for 30 s at most, and closes
    /// the connection. Under memory pressure it does not wait.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let timeout = self
            .close_timeout
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        if timeout.as_mut().poll(cx).is_pending() && !self.gater.resources().under_pressure() {
            ready!(self.unacked.poll_acked(cx));
        }
        self.quic.close(0_u8.into(), b"");
        Poll::Ready(Ok(()))
    }

    /// Reports the loss of the connection, and changes of the peer's address.
    ///
    /// quinn has no event for a migration. The address is compared whenever the connection is polled
    /// for another reason, so a change is reported with the next stream, keep-alive or close.
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
            self.flow.on_migration();
            self.send_window.update();
            let change = StreamMuxerEvent::AddressChange(address::format(remote));
            return Poll::Ready(Ok(change));
        }
        Poll::Pending
    }
}
