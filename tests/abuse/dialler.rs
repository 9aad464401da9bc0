//! A dialler by hand, who may stop or go wrong at any step up to the muxer.

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

/// What secures a connection.
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

/// Bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A connection to the relay on which both have proved who they are.
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

/// A TCP connection.
pub(crate) async fn dial(address: SocketAddr) -> Compat<TcpStream> {
    TcpStream::connect(address).await.unwrap().compat()
}

/// The relay ends it, after a handshake's time at the latest.
pub(crate) async fn is_closed(socket: &mut (impl AsyncRead + Unpin)) {
    let began = Instant::now();
    // An end and a reset will both do, and the relay may have spoken before.
    let _ = read_out(socket).await;
    assert!(began.elapsed() < HANDSHAKE_TIMEOUT + SLACK);
}

/// Random bytes, the same in every run.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(length as u64);
    (0..length).map(|_| rng.random()).collect()
}

/// A message of multistream-select: a length and a line.
pub(crate) fn line(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap();
    [&[length], text.as_bytes(), b"\n"].concat()
}

/// Agrees on `protocol`, as a dialler of multistream-select does.
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
