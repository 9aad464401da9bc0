//! The handshake. Its three messages are `e`; `e, ee, s, es` with the identity of the acceptor; and
//! `s, se` with the identity of the dialler.

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use snow::HandshakeState;

use super::{Error, Keys, LENGTH_BYTES, NoiseStream, payload};

/// The maximum length of a handshake message in bytes. With a large RSA key, its signature and some
/// extensions, a message has half of that.
const MAX_HANDSHAKE_BYTES: usize = 4096;

/// Performs the handshake as the acceptor. Returns the id of the authenticated peer, and the encrypted
/// stream.
///
/// # Errors
/// When the socket fails, or the peer cannot be authenticated.
pub async fn accept<C>(keys: Keys, socket: C) -> Result<(PeerId, NoiseStream<C>), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let state = keys.builder()?.build_responder()?;
    let mut handshake = Handshake { state, socket };
    if !handshake.receive().await?.is_empty() {
        return Err(Error::EarlyPayload);
    }
    handshake.send(keys.payload()).await?;
    let peer = handshake.authenticate().await?;
    Ok((peer, handshake.finish()?))
}

/// Performs the handshake as the dialler. Returns the id of the authenticated peer, and the encrypted
/// stream.
///
/// # Errors
/// When the socket fails, or the peer cannot be authenticated.
pub async fn dial<C>(keys: Keys, socket: C) -> Result<(PeerId, NoiseStream<C>), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let state = keys.builder()?.build_initiator()?;
    let mut handshake = Handshake { state, socket };
    handshake.send(&[]).await?;
    let peer = handshake.authenticate().await?;
    handshake.send(keys.payload()).await?;
    Ok((peer, handshake.finish()?))
}

struct Handshake<C> {
    state: HandshakeState,
    socket: C,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Handshake<C> {
    async fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        let mut frame = vec![0; LENGTH_BYTES + MAX_HANDSHAKE_BYTES];
        let (length, message) = frame.split_at_mut(LENGTH_BYTES);
        let written = self.state.write_message(payload, message)?;
        let short = u16::try_from(written).map_err(|_| Error::TooLong(written))?;
        length.copy_from_slice(&short.to_be_bytes());
        frame.truncate(LENGTH_BYTES + written);
        self.socket.write_all(&frame).await?;
        self.socket.flush().await?;
        Ok(())
    }

    /// Receives the next message, and returns its payload. Reads no byte beyond it.
    async fn receive(&mut self) -> Result<Vec<u8>, Error> {
        let mut length = [0; LENGTH_BYTES];
        self.socket.read_exact(&mut length).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_HANDSHAKE_BYTES {
            return Err(Error::TooLong(length));
        }
        let mut message = vec![0; length];
        self.socket.read_exact(&mut message).await?;
        let mut payload = vec![0; length];
        let read = self.state.read_message(&message, &mut payload)?;
        payload.truncate(read);
        Ok(payload)
    }

    /// Receives the next message, and returns the peer that its payload authenticates.
    async fn authenticate(&mut self) -> Result<PeerId, Error> {
        let payload = self.receive().await?;
        let key = self.state.get_remote_static().ok_or(Error::NoIdentity)?;
        payload::peer_id(&payload, key)
    }

    fn finish(self) -> Result<NoiseStream<C>, Error> {
        Ok(NoiseStream::new(
            self.socket,
            self.state.into_transport_mode()?,
        ))
    }
}
