//! The handshake, and an established connection as a muxer of streams.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{BoxFuture, Fuse, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{ConnectionError, RecvStream, SendStream};
use tokio::time::Sleep;

use super::stream::Undelivered;
use super::{Error, Stream, address, tls};
use crate::metrics::{Handshake, Open};

/// How long the end of a connection may take until its peer has everything.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for a connection to be established, and tells whose it is.
pub(super) async fn handshake(
    connecting: quinn::Connecting,
    timeout: Duration,
    handshake: Handshake,
) -> Result<(PeerId, Connection), Error> {
    let connection = tokio::time::timeout(timeout, connecting)
        .await
        .map_err(|_| Error::HandshakeTimeout)??;
    let peer = tls::peer_id(&connection)?;
    Ok((peer, Connection::new(connection, handshake.complete())))
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
    /// Counts it for as long as it is there.
    _open: Open,
    /// When the end of the connection is given up.
    close_timeout: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(connection: quinn::Connection, counted: Open) -> Self {
        // Futures that are kept, not made anew for each poll: their wakers live in them.
        let accept = |connection: quinn::Connection| async move {
            Some((connection.accept_bi().await, connection))
        };
        let open = |connection: quinn::Connection| async move {
            Some((connection.open_bi().await, connection))
        };
        let closed = connection.clone();
        Self {
            remote: connection.remote_address(),
            inbound: stream::unfold(connection.clone(), accept).boxed(),
            outbound: stream::unfold(connection.clone(), open).boxed(),
            closed: async move { closed.closed().await }.boxed().fuse(),
            undelivered: Undelivered::default(),
            _open: counted,
            close_timeout: None,
            quic: connection,
        }
    }
}

/// The next of an unending row of streams.
fn poll_next(
    streams: &mut Streams,
    undelivered: Undelivered,
    cx: &mut Context<'_>,
) -> Poll<Result<Stream, ConnectionError>> {
    match ready!(streams.poll_next_unpin(cx)) {
        Some(Ok((send, recv))) => Poll::Ready(Ok(Stream::new(send, recv, undelivered))),
        Some(Err(error)) => Poll::Ready(Err(error)),
        None => Poll::Ready(Err(ConnectionError::LocallyClosed)),
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let undelivered = self.undelivered.clone();
        poll_next(&mut self.inbound, undelivered, cx)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let undelivered = self.undelivered.clone();
        poll_next(&mut self.outbound, undelivered, cx)
    }

    /// Waits, not for long, until the peer has what finished streams carried, and closes.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let timeout = self
            .close_timeout
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        if timeout.as_mut().poll(cx).is_pending() {
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
        let remote = self.quic.remote_address();
        if remote != self.remote {
            self.remote = remote;
            let change = StreamMuxerEvent::AddressChange(address::format(remote));
            return Poll::Ready(Ok(change));
        }
        Poll::Pending
    }
}
