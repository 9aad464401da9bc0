//! A raw dialler. Tests can stop it, or send invalid bytes, at any step of a connection upgrade.

use std::{net::SocketAddr, time::Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{core::upgrade::OutboundConnectionUpgrade, identity::Keypair, noise, tls};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use test_support::{
    process::{Relay, socket},
    raw::read_out,
};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use transports::HANDSHAKE_TIMEOUT;

use crate::SLACK;

/// The security protocol of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Security {
    Noise,
    Tls,
}

impl Security {
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Noise => "/noise",
            Self::Tls => "/tls/1.0.0",
        }
    }
}

/// A bidirectional byte stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A connection to the relay after the security handshake, before muxer negotiation.
pub(crate) async fn secured(relay: &Relay, security: Security) -> Box<dyn Duplex> {
    let mut socket = dial(socket(&relay.tcp())).await;
    let protocol = security.protocol();
    negotiate(&mut socket, protocol).await;
    let key = Keypair::generate_ed25519();
    let (peer, secured): (_, Box<dyn Duplex>) = match security {
        Security::Noise => {
            let config = noise::Config::new(&key).unwrap();
            let (peer, secured) = config.upgrade_outbound(socket, protocol).await.unwrap();
            (peer, Box::new(secured))
        }
        Security::Tls => {
            let config = tls::Config::new(&key).unwrap();
            let (peer, secured) = config.upgrade_outbound(socket, protocol).await.unwrap();
            (peer, Box::new(secured))
        }
    };
    assert_eq!(peer, relay.peer_id);
    secured
}

/// Opens a TCP connection.
pub(crate) async fn dial(address: SocketAddr) -> Compat<TcpStream> {
    TcpStream::connect(address).await.unwrap().compat()
}

/// Asserts that the relay closes the connection within the handshake timeout.
pub(crate) async fn assert_closed(socket: &mut (impl AsyncRead + Unpin)) {
    let began = Instant::now();
    // Both a FIN and a reset are accepted. The relay may have sent bytes before.
    let _ = read_out(socket).await;
    assert!(began.elapsed() < HANDSHAKE_TIMEOUT + SLACK);
}

/// Deterministic pseudo-random bytes.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(length as u64);
    (0..length).map(|_| rng.random()).collect()
}

/// A multistream-select message: length prefix, text, newline.
pub(crate) fn line(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap();
    [&[length], text.as_bytes(), b"\n"].concat()
}

/// Negotiates `protocol` as the multistream-select dialler.
pub(crate) async fn negotiate(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), protocol: &str) {
    for text in ["/multistream/1.0.0", protocol] {
        let wanted = line(text);
        socket.write_all(&wanted).await.unwrap();
        socket.flush().await.unwrap();
        let mut answer = vec![0; wanted.len()];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, wanted);
    }
}
