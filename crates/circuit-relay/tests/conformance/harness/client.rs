//! A low-level client that sends arbitrary bytes on hop and stop streams, including invalid messages.

use circuit_relay::wire::{HOP_PROTOCOL, HopMessage, HopType, Peer, Status};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm,
    identity::Keypair,
    relay,
    swarm::{
        ConnectionId, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle, dial_opts::DialOpts,
    },
};
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{PATIENCE, answer::Answer, raw, server::Server};

/// A client that runs in the background. Closes all its connections on drop.
pub struct Client {
    pub peer_id: PeerId,
    commands: mpsc::Sender<Command>,
    stops: mpsc::Receiver<raw::Stop>,
    _task: JoinSet<()>,
}

/// A live connection to a relay.
#[derive(Clone)]
pub struct Connection {
    pub id: ConnectionId,
    opens: mpsc::Sender<raw::Open>,
}

enum Command {
    Dial(Multiaddr, oneshot::Sender<Connection>),
    HangUp(ConnectionId, oneshot::Sender<()>),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    raw: raw::Behaviour,
    relay: Toggle<relay::client::Behaviour>,
}

impl Client {
    /// A client on the network of `server`, without a connection.
    pub fn new(server: &Server) -> Self {
        Self::start(server, true, false)
    }

    /// A client without the stop protocol.
    pub fn without_stop(server: &Server) -> Self {
        Self::start(server, false, false)
    }

    /// A client that can dial through relays.
    pub fn through_relays(server: &Server) -> Self {
        Self::start(server, false, true)
    }

    /// A client with one connection to `server`.
    pub async fn connected(server: &Server) -> (Self, Connection) {
        let client = Self::new(server);
        let connection = client.dial(server).await;
        (client, connection)
    }

    /// A client with a reservation, and the connection that requested it.
    pub async fn reserved(server: &Server) -> (Self, Connection) {
        let (client, connection) = Self::connected(server).await;
        connection.reserve().await.granted();
        (client, connection)
    }

    /// A client with this identity key.
    pub fn with_key(server: &Server, key: &Keypair) -> Self {
        Self::start_as(key, server, true, false)
    }

    fn start(server: &Server, stop: bool, relays: bool) -> Self {
        Self::start_as(&Keypair::generate_ed25519(), server, stop, relays)
    }

    fn start_as(key: &Keypair, server: &Server, stop: bool, relays: bool) -> Self {
        let (commands, receiver) = mpsc::channel(8);
        let (stop_sender, stops) = mpsc::channel(64);
        let swarm = server.net.swarm_of(key, relays, |_, relay| Behaviour {
            raw: raw::Behaviour::new(stop.then_some(stop_sender)),
            relay: relay.into(),
        });
        let peer_id = *swarm.local_peer_id();
        let mut task = JoinSet::new();
        task.spawn(run(swarm, receiver));
        Self {
            peer_id,
            commands,
            stops,
            _task: task,
        }
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, done) = oneshot::channel();
        self.commands.send(command(reply)).await.ok().unwrap();
        timeout(PATIENCE, done)
            .await
            .expect("done in time")
            .unwrap()
    }

    /// Opens a new connection to `server`, even if there is one already.
    pub async fn dial(&self, server: &Server) -> Connection {
        self.command(|reply| Command::Dial(server.full_address(), reply))
            .await
    }

    /// Closes this connection only.
    pub async fn disconnect(&self, connection: &Connection) {
        self.command(|reply| Command::HangUp(connection.id, reply))
            .await;
    }

    /// The next stop stream; its request is unread.
    pub async fn stop(&mut self) -> raw::Stop {
        self.stop_in_time().await.expect("a stop stream in time")
    }

    /// The next stop stream within [`PATIENCE`], if any.
    pub async fn stop_in_time(&mut self) -> Option<raw::Stop> {
        timeout(PATIENCE, self.stops.recv()).await.ok()?
    }
}

async fn run(mut swarm: Swarm<Behaviour>, mut commands: mpsc::Receiver<Command>) {
    let mut dials = Vec::new();
    let mut hang_ups = Vec::new();
    loop {
        tokio::select! {
            Some(command) = commands.recv() => match command {
                Command::Dial(address, reply) => {
                    let opts = DialOpts::unknown_peer_id().address(address).build();
                    dials.push((opts.connection_id(), reply));
                    swarm.dial(opts).unwrap();
                }
                Command::HangUp(id, reply) => {
                    hang_ups.push((id, reply));
                    assert!(swarm.close_connection(id));
                }
            },
            // The receiver is dropped when the case ends.
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { connection_id: id, .. } => {
                    let opens = swarm.behaviour().raw.opener(id);
                    for (_, reply) in dials.extract_if(.., |(dial, _)| *dial == id) {
                        let _ = reply.send(Connection { id, opens: opens.clone() });
                    }
                }
                SwarmEvent::ConnectionClosed { connection_id: id, .. } => {
                    for (_, reply) in hang_ups.extract_if(.., |(closed, _)| *closed == id) {
                        let _ = reply.send(());
                    }
                }
                _ => {}
            },
        }
    }
}

impl Connection {
    /// Opens a hop stream. Fails with the observation.
    pub async fn open(&self) -> Result<Stream, Answer> {
        self.open_protocol(HOP_PROTOCOL).await
    }

    /// Opens a stream of this protocol. Fails with the observation.
    pub async fn open_protocol(&self, protocol: StreamProtocol) -> Result<Stream, Answer> {
        let (reply, stream) = oneshot::channel();
        if self.opens.send((protocol, reply)).await.is_err() {
            return Err(Answer::Ended);
        }
        match timeout(PATIENCE, stream).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err(Answer::Ended),
            Err(_) => Err(Answer::Silence),
        }
    }

    /// Sends these bytes on a new hop stream and reads the response.
    pub async fn send(&self, bytes: &[u8]) -> Answer {
        self.request(bytes).await.0
    }

    /// As [`Self::send`], but keeps the stream.
    pub async fn request(&self, bytes: &[u8]) -> (Answer, Option<Stream>) {
        match self.open().await {
            Ok(mut stream) => {
                write(&mut stream, bytes).await;
                (Answer::read(&mut stream).await, Some(stream))
            }
            Err(instead) => (instead, None),
        }
    }

    /// Waits until the relay also considers the connection established, which is slightly later than at
    /// the client.
    pub async fn wait_until_served(&self) {
        self.connect(PeerId::random()).await;
    }

    /// Sends RESERVE.
    ///
    /// Reads until the end of the stream. Dropping it earlier would reset it, and a reset may arrive
    /// before the relay has closed the stream.
    pub async fn reserve(&self) -> Answer {
        let (answer, stream) = self.request(&reserve()).await;
        if let (Answer::Status(_), Some(mut stream)) = (&answer, stream) {
            let _ = stream.close().await;
            read_to_end(&mut stream).await;
        }
        answer
    }

    /// Sends CONNECT; no client responds to the STOP.
    pub async fn connect(&self, target: PeerId) -> Answer {
        self.send(&connect(target)).await
    }

    /// Sends CONNECT until the response has this status, because the relay processes the events of other
    /// clients asynchronously. Returns the last response.
    pub async fn connect_until(&self, target: PeerId, status: Status) -> Answer {
        until(status, || self.connect(target)).await
    }
}

/// Repeats the request until the response has this status. Returns the last response.
pub async fn until<F: Future<Output = Answer>>(status: Status, ask: impl Fn() -> F) -> Answer {
    let mut last = Answer::Silence;
    let _ = timeout(PATIENCE, async {
        loop {
            last = ask().await;
            if last.is(status) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    last
}

/// Writes and flushes. Errors are ignored: if the relay ends the stream meanwhile, its response is the
/// observation.
pub async fn write(stream: &mut Stream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Eof,
    Error,
    Silence,
}

/// All received data, and how the stream ended.
pub async fn read_to_end(stream: &mut Stream) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let end = match timeout(PATIENCE, stream.read_to_end(&mut bytes)).await {
        Ok(Ok(_)) => End::Eof,
        Ok(Err(_)) => End::Error,
        Err(_) => End::Silence,
    };
    (bytes, end)
}

/// An encoded message with length prefix.
pub fn frame(message: &impl Message) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

/// An encoded RESERVE.
pub fn reserve() -> Vec<u8> {
    frame(&HopMessage {
        kind: Some(HopType::Reserve.into()),
        ..HopMessage::default()
    })
}

/// An encoded CONNECT.
pub fn connect(target: PeerId) -> Vec<u8> {
    frame(&HopMessage {
        kind: Some(HopType::Connect.into()),
        peer: Some(Peer {
            id: Some(target.to_bytes()),
            addrs: Vec::new(),
        }),
        ..HopMessage::default()
    })
}
