//! Tests over pairs of connections, and against hand-written frames.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _,
    future::Either,
    io::{AsyncRead, AsyncWrite},
};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerExt as _};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use super::{
    Config, Error, Muxer, Substream,
    frame::{Flags, GoAway, HEADER_LEN, Header, Kind},
    session::Role,
};

mod ending;
mod failure;
mod high_rtt;
mod hostile;
mod interop;
mod keepalive;
mod memory;
mod model;
mod pressure;
mod swarm;

type Socket = Compat<DuplexStream>;

/// The capacity of an in-memory socket in each direction, in bytes.
const SOCKET_BUFFER: usize = 64 * 1024;

fn sockets() -> (Socket, Socket) {
    let (a, b) = tokio::io::duplex(SOCKET_BUFFER);
    (a.compat(), b.compat())
}

fn ours(socket: Socket, role: Role) -> Muxer<Socket> {
    Muxer::new(socket, Config::default(), role)
}

/// A connection of the `yamux` crate.
fn theirs(socket: Socket, role: Role) -> libp2p::yamux::Muxer<Socket> {
    use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
    let config = libp2p::yamux::Config::default();
    let upgraded = match role {
        Role::Client => Either::Left(config.upgrade_outbound(socket, "/yamux/1.0.0")),
        Role::Server => Either::Right(config.upgrade_inbound(socket, "/yamux/1.0.0")),
    };
    futures::FutureExt::now_or_never(upgraded).unwrap().unwrap()
}

/// Fails a test that would wait indefinitely.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("in time")
}

/// A muxer that is driven by a task; dropping the handle drops the muxer.
struct Peer<M: StreamMuxer> {
    commands: mpsc::Sender<Command<M>>,
    inbound: mpsc::Receiver<M::Substream>,
    task: JoinSet<Result<(), M::Error>>,
}

enum Command<M: StreamMuxer> {
    Open(oneshot::Sender<M::Substream>),
    Close,
}

impl<M> Peer<M>
where
    M: StreamMuxer<Substream: Send + Unpin + 'static, Error: Send + 'static>
        + Send
        + Unpin
        + 'static,
{
    fn new(mut muxer: M) -> Self {
        let (commands, mut requests) = mpsc::channel::<Command<M>>(1);
        let (accepted, inbound) = mpsc::channel(1000);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut opening = None;
            let drive = |cx: &mut Context<'_>| {
                loop {
                    if let Poll::Ready(event) = muxer.poll_unpin(cx) {
                        return Poll::Ready(event.map(|_| ()));
                    }
                    if let Poll::Ready(stream) = muxer.poll_inbound_unpin(cx)? {
                        let _ = accepted.try_send(stream);
                        continue;
                    }
                    if opening.is_none() {
                        match requests.poll_recv(cx) {
                            Poll::Ready(Some(Command::Open(reply))) => opening = Some(reply),
                            Poll::Ready(Some(Command::Close)) => return Poll::Ready(Ok(())),
                            Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                        }
                    }
                    let Poll::Ready(stream) = muxer.poll_outbound_unpin(cx)? else {
                        return Poll::Pending;
                    };
                    if let Some(reply) = opening.take() {
                        let _ = reply.send(stream);
                    }
                }
            };
            poll_fn(drive).await?;
            muxer.close().await
        });
        Self {
            commands,
            inbound,
            task,
        }
    }

    async fn open(&self) -> M::Substream {
        let (reply, stream) = oneshot::channel();
        let sent = self.commands.send(Command::Open(reply)).await;
        assert!(sent.is_ok(), "the connection has ended");
        soon(stream).await.unwrap()
    }

    async fn accept(&mut self) -> M::Substream {
        soon(self.inbound.recv()).await.unwrap()
    }

    async fn close(&mut self) -> Result<(), M::Error> {
        let _ = self.commands.send(Command::Close).await;
        self.ended().await
    }

    /// Waits until the connection has ended.
    async fn ended(&mut self) -> Result<(), M::Error> {
        soon(self.task.join_next()).await.unwrap().unwrap()
    }
}

/// Two of our connections, client and server.
fn pair() -> (Peer<Muxer<Socket>>, Peer<Muxer<Socket>>) {
    let (a, b) = sockets();
    (
        Peer::new(ours(a, Role::Client)),
        Peer::new(ours(b, Role::Server)),
    )
}

/// A stream between two of our connections. `a` opened it.
struct Link {
    a: Substream,
    b: Substream,
    _peers: (Peer<Muxer<Socket>>, Peer<Muxer<Socket>>),
}

async fn link() -> Link {
    let (client, mut server) = pair();
    let a = client.open().await;
    let b = server.accept().await;
    Link {
        a,
        b,
        _peers: (client, server),
    }
}

/// Reads to the end. Returns the bytes, and how the stream ended.
async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, std::io::Result<()>) {
    let mut bytes = Vec::new();
    let end = soon(stream.read_to_end(&mut bytes)).await.map(|_| ());
    (bytes, end)
}

/// Writes until an error, and returns its kind.
async fn write_until_error(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::ErrorKind {
    soon(async {
        loop {
            if let Err(error) = stream.write_all(&[0; 100]).await {
                return error.kind();
            }
            if let Err(error) = stream.flush().await {
                return error.kind();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// The remote of one of our connections, which writes and reads single frames.
struct Raw {
    peer: Peer<Muxer<Socket>>,
    socket: Socket,
}

impl Raw {
    /// `role` is the role of our connection.
    fn new(role: Role, config: Config) -> Self {
        let (a, socket) = sockets();
        Self {
            peer: Peer::new(Muxer::new(a, config, role)),
            socket,
        }
    }

    async fn send(&mut self, header: Header, payload: &[u8]) {
        soon(self.socket.write_all(&header.encode())).await.unwrap();
        soon(self.socket.write_all(payload)).await.unwrap();
    }

    async fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut header = [0; HEADER_LEN];
        soon(self.socket.read_exact(&mut header)).await.unwrap();
        let header = Header::decode(header).unwrap();
        let mut payload = Vec::new();
        if header.kind == Kind::Data {
            payload.resize(header.length as usize, 0);
            soon(self.socket.read_exact(&mut payload)).await.unwrap();
        }
        (header, payload)
    }

    /// All frames that were sent before the reply to a ping.
    async fn received(&mut self) -> Vec<Header> {
        self.send(Header::ping(7), &[]).await;
        let mut headers = Vec::new();
        loop {
            let (header, _) = self.receive().await;
            if header == Header::pong(7) {
                return headers;
            }
            headers.push(header);
        }
    }

    /// Opens a stream and accepts it.
    async fn stream(&mut self, id: u32) -> Substream {
        let syn = Header::window_update(id, Flags::SYN, 0);
        self.send(syn, &[]).await;
        let stream = self.peer.accept().await;
        let ack = Header::window_update(id, Flags::ACK, 0);
        assert_eq!(self.received().await, [ack]);
        stream
    }

    /// Waits for the error with which our connection ends, and checks that GOAWAY was sent.
    async fn violated(mut self) -> super::ProtocolError {
        let Err(Error::Protocol(error)) = self.peer.ended().await else {
            panic!("not a violation of the protocol");
        };
        let mut rest = Vec::new();
        soon(self.socket.read_to_end(&mut rest)).await.unwrap();
        let goodbye = Header::go_away(GoAway::ProtocolError).encode();
        assert!(rest.ends_with(&goodbye), "no GOAWAY: {rest:?}");
        error
    }
}

fn rst(stream: u32) -> Header {
    Header::window_update(stream, Flags::RST, 0)
}

fn fin(stream: u32) -> Header {
    Header::window_update(stream, Flags::FIN, 0)
}

/// `len` bytes in which lost or repeated parts are detectable.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 4);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Polls once.
fn poll_once<T>(mut future: impl Future<Output = T> + Unpin) -> Poll<T> {
    Pin::new(&mut future).poll(&mut Context::from_waker(futures::task::noop_waker_ref()))
}
