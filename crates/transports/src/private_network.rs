//! Private networks: a byte stream is encrypted with a pre-shared key below the security handshake, so
//! that peers without the key get no further.
//!
//! Specification: libp2p `pnet/Private-Networks-PSK-V1.md`. Each side sends a nonce of 24 bytes; all
//! other bytes are encrypted with `XSalsa20`. The protocol does not detect another key: its peer sends what
//! looks like noise. But every dialler begins with the header of multistream-select, so an accepted
//! connection is checked for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite,
    future::{BoxFuture, FutureExt as _},
};
use libp2p::core::ConnectedPoint;
use libp2p_pnet::{PnetConfig, PnetError, PnetOutput, PreSharedKey};
use resource_manager::ConnectionDenyReason;

use super::{ConnectionGater, SwarmKey, buffered::ReportedBytes};

/// What a dialler sends first: a message of multistream-select with its protocol.
const FIRST_MESSAGE: &[u8; 20] = b"\x13/multistream/1.0.0\n";

/// Maximum number of bytes that are encrypted at a time. They are copied into a buffer of the
/// connection, which does not shrink.
const MAX_WRITE: usize = 16 * 1024;

/// Initial capacity of that buffer in libp2p's implementation.
const INITIAL_BUFFER_BYTES: usize = 1024;

/// The network that the relay belongs to: the public one, or a private one.
#[derive(Clone, Debug)]
pub struct Network {
    key: Option<PreSharedKey>,
    gater: ConnectionGater,
}

impl Network {
    /// The private network of `key`, or the public network. Connections of peers without the key are
    /// reported to `gater`.
    pub fn new(key: Option<&SwarmKey>, gater: ConnectionGater) -> Self {
        let key = key.map(SwarmKey::pre_shared_key);
        Self { key, gater }
    }

    /// A function that joins this network on a new connection.
    pub fn join<S>(
        &self,
    ) -> impl FnOnce(S, ConnectedPoint) -> BoxFuture<'static, io::Result<NetworkStream<S>>>
    + Clone
    + Send
    + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let network = self.clone();
        |socket, point| match point {
            ConnectedPoint::Listener { .. } => network.accept(socket).boxed(),
            ConnectedPoint::Dialer { .. } => network.dial(socket).boxed(),
        }
    }

    /// Exchanges nonces on an accepted connection, and checks that the dialler has the key.
    ///
    /// # Errors
    /// If the stream fails, or the dialler does not have the key.
    pub async fn accept<S>(self, socket: S) -> io::Result<NetworkStream<S>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(key) = self.key else {
            return Ok(NetworkStream::Public(socket));
        };
        let mut stream = PrivateStream::handshake(key, socket).await?;
        if !stream.read_first_message().await? {
            self.gater
                .record_refusal(ConnectionDenyReason::SwarmKey.as_str());
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the peer does not have the swarm key",
            ));
        }
        Ok(NetworkStream::Private(Box::new(stream)))
    }

    /// Exchanges nonces on a dialled connection.
    ///
    /// # Errors
    /// If the stream fails.
    pub async fn dial<S>(self, socket: S) -> io::Result<NetworkStream<S>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match self.key {
            Some(key) => {
                let stream = PrivateStream::handshake(key, socket).await?;
                Ok(NetworkStream::Private(Box::new(stream)))
            }
            None => Ok(NetworkStream::Public(socket)),
        }
    }
}

/// A byte stream in the public network or a private one.
pub enum NetworkStream<S> {
    /// Not encrypted.
    Public(S),
    /// Encrypted with the swarm key. In a box, so that streams of the public network are not larger.
    Private(Box<PrivateStream<S>>),
}

/// A byte stream that is encrypted with the swarm key.
pub struct PrivateStream<S> {
    io: PnetOutput<S>,
    /// Bytes of [`FIRST_MESSAGE`] that have been read from `io`, but not from this stream.
    first: &'static [u8],
    /// The longest write so far, which is what the buffer of `io` may hold.
    longest_write: usize,
    buffered: ReportedBytes,
}

impl<S> PrivateStream<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    async fn handshake(key: PreSharedKey, socket: S) -> io::Result<Self> {
        let io = PnetConfig::new(key)
            .handshake(socket)
            .await
            .map_err(|error| match error {
                PnetError::HandshakeError(error) | PnetError::IoError(error) => error,
            })?;
        Ok(Self {
            io,
            first: &[],
            longest_write: INITIAL_BUFFER_BYTES,
            buffered: ReportedBytes::default(),
        })
    }

    /// Reads the first message of the dialler. Returns whether it is [`FIRST_MESSAGE`]; another one is
    /// detected with its first bytes, because peers without the key may send fewer.
    async fn read_first_message(&mut self) -> io::Result<bool> {
        let mut expected = FIRST_MESSAGE.as_slice();
        let mut buffer = [0; FIRST_MESSAGE.len()];
        while !expected.is_empty() {
            let space = buffer.get_mut(..expected.len()).unwrap_or_default();
            let count = self.io.read(space).await?;
            let read = space.get(..count).unwrap_or_default();
            match expected.strip_prefix(read) {
                Some(rest) if count > 0 => expected = rest,
                _ => return Ok(false),
            }
        }
        self.first = FIRST_MESSAGE;
        Ok(true)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for PrivateStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.len());
        let (now, later) = self.first.split_at(count);
        let (space, _) = buffer.split_at_mut(count);
        space.copy_from_slice(now);
        self.first = later;
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PrivateStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = bytes.get(..MAX_WRITE).unwrap_or(bytes);
        let this = &mut *self;
        this.longest_write = this.longest_write.max(bytes.len());
        this.buffered.update(this.longest_write);
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for NetworkStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Public(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Private(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for NetworkStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Public(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Private(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Public(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Private(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Public(stream) => Pin::new(stream).poll_flush(cx),
            Self::Private(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Public(stream) => Pin::new(stream).poll_close(cx),
            Self::Private(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncWriteExt as _, future::try_join};
    use tokio::io::{DuplexStream, duplex};
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

    use super::*;

    type Socket = Compat<DuplexStream>;

    fn network(key: u8) -> Network {
        Network {
            key: Some(PreSharedKey::new([key; 32])),
            gater: ConnectionGater::unlimited(),
        }
    }

    /// Two sockets with a short buffer between them.
    fn sockets() -> (Socket, Socket) {
        let (one, other) = duplex(1000);
        (one.compat(), other.compat())
    }

    /// What the network does with a dialler that has `key` and writes `bytes` one by one.
    async fn accept(key: u8, bytes: &[u8]) -> io::Result<NetworkStream<Socket>> {
        let (dialler, listener) = sockets();
        let dial = async {
            let mut stream = network(key).dial(dialler).await?;
            for byte in bytes {
                stream.write_all(std::slice::from_ref(byte)).await?;
            }
            stream.close().await
        };
        Ok(try_join(network(1).accept(listener), dial).await?.0)
    }

    #[tokio::test]
    async fn first_message_is_checked_and_can_be_read() {
        let bytes = [FIRST_MESSAGE.as_slice(), b"\x07/noise\n"].concat();
        let mut stream = accept(1, &bytes).await.unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, bytes);
    }

    #[tokio::test]
    async fn other_first_messages_are_rejected() {
        for bytes in [b"\x13/multistream/1.0.1\n".as_slice(), b"\x13/multi", b""] {
            let error = accept(1, bytes).await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let error = accept(2, FIRST_MESSAGE).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "another key");
    }

    #[tokio::test]
    async fn plain_text_is_rejected_even_if_it_ends_soon() {
        let (mut dialler, listener) = sockets();
        let plain = [FIRST_MESSAGE.as_slice(), b"\x07/noise\n"].concat();
        dialler.write_all(&plain).await.unwrap();
        let error = network(1).accept(listener).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn writes_of_any_length_arrive() {
        let (dialler, listener) = sockets();
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let dial = async {
            let mut stream = network(1).dial(dialler).await?;
            stream.write_all(FIRST_MESSAGE).await?;
            stream.write_all(&sent).await?;
            stream.close().await
        };
        let accept = async {
            let mut stream = network(1).accept(listener).await?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await?;
            Ok(received)
        };
        let (received, ()) = try_join(accept, dial).await.unwrap();
        assert!(received.strip_prefix(FIRST_MESSAGE.as_slice()) == Some(sent.as_slice()));
    }
}
