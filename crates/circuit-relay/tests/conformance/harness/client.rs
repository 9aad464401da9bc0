//! A client that speaks bytes: what it sends need not be a message, let alone a sensible one.

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

/// A client that runs in the background. It hangs up on everybody when it is dropped.
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
    /// A client on the network of `server`, connected to nobody.
    pub fn new(server: &Server) -> Self {
        Self::start(server, true, false)
    }

    /// One that does not speak the stop protocol.
    pub fn without_stop(server: &Server) -> Self {
        Self::start(server, false, false)
    }

    /// One that can dial through relays.
    pub fn through_relays(server: &Server) -> Self {
        Self::start(server, false, true)
    }

    /// A client with one connection to `server`.
    pub async fn connected(server: &Server) -> (Self, Connection) {
        let client = Self::new(server);
        let connection = client.dial(server).await;
        (client, connection)
    }

    /// A client that holds a reservation, and the connection that it asked on.
    pub async fn reserved(server: &Server) -> (Self, Connection) {
        let (client, connection) = Self::connected(server).await;
        connection.reserve().await.granted();
        (client, connection)
    }

    /// One with this identity.
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

    /// A new connection to `server`, whether there is one already or not.
    pub async fn dial(&self, server: &Server) -> Connection {
        self.command(|reply| Command::Dial(server.full_address(), reply))
            .await
    }

    /// Closes this connection and no other.
    pub async fn hang_up(&self, connection: &Connection) {
        self.command(|reply| Command::HangUp(connection.id, reply))
            .await;
    }

    /// The next stop stream, unread.
    pub async fn stop(&mut self) -> raw::Stop {
        self.stop_in_time().await.expect("a stop stream in time")
    }

    /// The next stop stream, if there is one.
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
            // The receiver may have been dropped with the case.
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
    /// A hop stream, or what came instead of one.
    pub async fn open(&self) -> Result<Stream, Answer> {
        self.open_protocol(HOP_PROTOCOL).await
    }

    /// A stream of this protocol, or what came instead of one.
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

    /// Sends these bytes on a new hop stream and reads the answer.
    pub async fn send(&self, bytes: &[u8]) -> Answer {
        self.request(bytes).await.0
    }

    /// Does the same and keeps the stream.
    pub async fn request(&self, bytes: &[u8]) -> (Answer, Option<Stream>) {
        match self.open().await {
            Ok(mut stream) => {
                write(&mut stream, bytes).await;
                (Answer::read(&mut stream).await, Some(stream))
            }
            Err(instead) => (instead, None),
        }
    }

    /// Waits until the relay serves this connection: for a client it is up a moment earlier.
    pub async fn is_served(&self) {
        self.connect(PeerId::random()).await;
    }

    /// RESERVE.
    ///
    /// The stream is brought to its end: one that is dropped before is reset, and a reset may
    /// overtake a relay that is about to close it.
    pub async fn reserve(&self) -> Answer {
        let (answer, stream) = self.request(&reserve()).await;
        if let (Answer::Status(_), Some(mut stream)) = (&answer, stream) {
            let _ = stream.close().await;
            read_to_end(&mut stream).await;
        }
        answer
    }

    /// CONNECT, with nobody to answer the STOP.
    pub async fn connect(&self, target: PeerId) -> Answer {
        self.send(&connect(target)).await
    }

    /// Sends CONNECT until the answer has this status, since the relay learns of what other
    /// clients did when it learns of it. Gives the last answer.
    pub async fn connect_until(&self, target: PeerId, status: Status) -> Answer {
        until(status, || self.connect(target)).await
    }
}

/// Asks until the answer has this status; gives the last answer.
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

/// Writes and flushes. The relay may end the stream meanwhile; its answer is then the observation.
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

/// Everything that comes, and how it ends.
pub async fn read_to_end(stream: &mut Stream) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let end = match timeout(PATIENCE, stream.read_to_end(&mut bytes)).await {
        Ok(Ok(_)) => End::Eof,
        Ok(Err(_)) => End::Error,
        Err(_) => End::Silence,
    };
    (bytes, end)
}

/// The bytes of a message with its length before it.
pub fn frame(message: &impl Message) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

/// The bytes of a RESERVE.
pub fn reserve() -> Vec<u8> {
    frame(&HopMessage {
        kind: Some(HopType::Reserve.into()),
        ..HopMessage::default()
    })
}

/// The bytes of a CONNECT.
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
