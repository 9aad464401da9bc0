//! Traffic through a fleet: pairs of clients, of which one holds reservations on two relays and the
//! other sends it requests, each on a new circuit.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, core::transport::ListenerId, multiaddr::Protocol, relay::client,
    swarm::SwarmEvent,
};
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    PATIENCE,
    client::{BehaviourEvent, Client, Security, TEST_PROTOCOL},
};

/// How many relays a target reserves on.
const REDUNDANCY: usize = 2;
/// How long a step of a request may take until it counts as failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often something is looked at that gives no event.
const LOOK: Duration = Duration::from_millis(20);

/// The relays of a fleet as one pair knows them, each address ending in a peer id.
#[derive(Clone)]
pub struct Fleet {
    pub relays: Vec<Multiaddr>,
    /// Who is asked for names; empty for the system's.
    pub name_servers: Vec<SocketAddr>,
}

/// The relays on which a target holds a reservation, as indices into the fleet.
type Reserved = Arc<Mutex<BTreeSet<usize>>>;

#[derive(Default)]
struct State {
    done: AtomicBool,
    requests: AtomicUsize,
    /// Those that have ended, for each pair.
    ended: Mutex<Vec<usize>>,
    retried: AtomicUsize,
    cut: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
}

/// Pairs of clients at work.
pub struct Traffic {
    long: Duration,
    state: Arc<State>,
    reserved: Vec<Reserved>,
    targets: Vec<JoinHandle<()>>,
    requesters: Vec<JoinHandle<()>>,
}

/// What became of the requests.
pub struct Outcome {
    pub requests: usize,
    /// Attempts that failed on one of the target's relays, and were made again on another.
    pub retried: usize,
    /// Why each circuit broke that did, before everything was through.
    pub cut: Vec<String>,
    /// Why each request failed that could be made on none of the target's relays.
    pub failed: Vec<String>,
}

impl Traffic {
    /// No pair yet. Of those to come, every seventh request holds its circuit open for so long.
    pub fn new(long: Duration) -> Self {
        Self {
            long,
            state: Arc::default(),
            reserved: Vec::new(),
            targets: Vec::new(),
            requesters: Vec::new(),
        }
    }

    /// A pair more; returns when its target holds its reservations.
    pub async fn add(&mut self, fleet: Fleet) {
        let first = self.targets.len();
        let client = Client::asking(Security::Noise, &fleet.name_servers).await;
        let (id, reserved) = (client.peer_id, Reserved::default());
        let target = target(client, fleet.relays.clone(), first, reserved.clone());
        self.targets.push(tokio::task::spawn(target));
        self.reserved.push(reserved.clone());
        self.settles().await;
        self.state.ended.lock().unwrap().push(0);
        let requester = requester(
            id,
            fleet,
            reserved,
            (first, self.long),
            Arc::clone(&self.state),
        );
        self.requesters.push(tokio::task::spawn(requester));
    }

    /// Waits until every target holds its reservations.
    pub async fn settles(&self) {
        let is_short = |reserved: &Reserved| reserved.lock().unwrap().len() < REDUNDANCY;
        self.wait("two reservations of each target", || {
            !self.reserved.iter().any(is_short)
        })
        .await;
    }

    /// Waits until each pair has ended this many more requests: of those that are on their way now,
    /// none is left.
    pub async fn flows(&self, requests: usize) {
        let ended = || self.state.ended.lock().unwrap().clone();
        let goals: Vec<_> = ended().iter().map(|ended| ended + requests).collect();
        self.wait("requests", || {
            ended()
                .iter()
                .zip(&goals)
                .all(|(ended, goal)| ended >= goal)
        })
        .await;
    }

    async fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let wait = async {
            while !is_so() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let in_time = timeout(PATIENCE, wait).await.is_ok();
        let failed = self.state.failed.lock().unwrap();
        assert!(in_time, "no {what}: {failed:#?}");
    }

    /// Waits for the requests that are on their way, and makes no more.
    pub async fn stop(self) -> Outcome {
        self.state.done.store(true, Ordering::Relaxed);
        for requester in self.requesters {
            requester.await.unwrap();
        }
        for target in self.targets {
            target.abort();
        }
        let outcome = Outcome {
            requests: self.state.requests.load(Ordering::Relaxed),
            retried: self.state.retried.load(Ordering::Relaxed),
            cut: std::mem::take(&mut *self.state.cut.lock().unwrap()),
            failed: std::mem::take(&mut *self.state.failed.lock().unwrap()),
        };
        println!(
            "{} requests, {} retried on another relay, {} circuits cut, {} failed",
            outcome.requests,
            outcome.retried,
            outcome.cut.len(),
            outcome.failed.len()
        );
        outcome
    }
}

impl Outcome {
    /// Each request was served, if not by the first relay, then by another.
    pub fn assert_none_failed(&self) {
        let Self {
            requests, failed, ..
        } = self;
        assert!(
            failed.is_empty(),
            "{} of {requests} failed: {failed:#?}",
            failed.len()
        );
    }
}

/// Keeps reservations on two relays of the fleet, and moves when it is disconnected.
async fn target(mut client: Client, fleet: Vec<Multiaddr>, first: usize, reserved: Reserved) {
    let mut incoming = client.streams.accept(TEST_PROTOCOL).unwrap();
    let mut listeners: Vec<(ListenerId, usize)> = Vec::new();
    let mut next = first;
    loop {
        while listeners.len() < REDUNDANCY {
            next = (next + 1) % fleet.len();
            if listeners.iter().all(|(_, relay)| *relay != next) {
                let address = fleet[next].clone().with(Protocol::P2pCircuit);
                listeners.push((client.swarm.listen_on(address).unwrap(), next));
            }
        }
        tokio::select! {
            Some((_, mut stream)) = incoming.next() => {
                tokio::task::spawn(async move {
                    let mut request = Vec::new();
                    if stream.read_to_end(&mut request).await.is_ok() {
                        let _ = stream.write_all(&request).await;
                        let _ = stream.close().await;
                    }
                });
            }
            event = client.swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Relay(
                    client::Event::ReservationReqAccepted { relay_peer_id, .. },
                )) => {
                    let is_it = |address: &Multiaddr| {
                        address.iter().last() == Some(Protocol::P2p(relay_peer_id))
                    };
                    reserved.lock().unwrap().insert(fleet.iter().position(is_it).unwrap());
                }
                SwarmEvent::ListenerClosed { listener_id, .. } => {
                    let lost = listeners.iter().find(|(id, _)| *id == listener_id);
                    if let Some((_, relay)) = lost {
                        reserved.lock().unwrap().remove(relay);
                    }
                    listeners.retain(|(id, _)| *id != listener_id);
                }
                _ => {}
            },
        }
    }
}

/// Why a request got no answer from one relay.
enum Lost {
    /// The circuit did not come about.
    NoCircuit(String),
    /// It broke before everything was through.
    Cut(String),
}

/// One request through one relay, on a new circuit that is open at least this long.
async fn request(
    target: PeerId,
    relay: &Multiaddr,
    name_servers: &[SocketAddr],
    length: Duration,
) -> Result<(), Lost> {
    let mut source = Client::asking(Security::Noise, name_servers).await;
    let connected = timeout(STEP_TIMEOUT, source.connect(relay, target)).await;
    connected
        .unwrap_or_else(|_| Err("the circuit timed out".to_owned()))
        .map_err(Lost::NoCircuit)?;
    let mut streams = source.streams.clone();
    let run = source.run();
    let exchange = async {
        let stream = streams.open_stream(target, TEST_PROTOCOL).await;
        let mut stream = stream.map_err(|error| error.to_string())?;
        exchange(&mut stream, length)
            .await
            .map_err(|error| error.to_string())
    };
    let result = timeout(STEP_TIMEOUT + length, exchange).await;
    run.abort();
    result
        .unwrap_or_else(|_| Err("the exchange timed out".to_owned()))
        .map_err(Lost::Cut)
}

async fn exchange(stream: &mut Stream, length: Duration) -> io::Result<()> {
    stream.write_all(&[7; 2048]).await?;
    stream.flush().await?;
    tokio::time::sleep(length).await;
    stream.write_all(&[7; 2048]).await?;
    stream.close().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer == [7; 4096] {
        return Ok(());
    }
    Err(io::Error::other(format!("{} bytes", answer.len())))
}

/// Sends requests until `done` is set, each on one of the target's relays and then on the others.
async fn requester(
    target: PeerId,
    fleet: Fleet,
    reserved: Reserved,
    (pair, long): (usize, Duration),
    state: Arc<State>,
) {
    while !state.done.load(Ordering::Relaxed) {
        let mut errors = Vec::new();
        let mut relays: Vec<usize> = reserved.lock().unwrap().iter().copied().collect();
        let turn = state.requests.fetch_add(1, Ordering::Relaxed);
        let length = if turn.is_multiple_of(7) {
            long
        } else {
            Duration::ZERO
        };
        let turns = turn % relays.len().max(1);
        relays.rotate_left(turns);
        let mut is_served = false;
        for relay in relays {
            match request(target, &fleet.relays[relay], &fleet.name_servers, length).await {
                Ok(()) => {
                    is_served = true;
                    break;
                }
                Err(Lost::NoCircuit(why)) => errors.push(format!("relay {relay}: {why}")),
                Err(Lost::Cut(why)) => {
                    let why = format!("relay {relay}: {why}");
                    state.cut.lock().unwrap().push(why.clone());
                    errors.push(why);
                }
            }
            state.retried.fetch_add(1, Ordering::Relaxed);
        }
        if !is_served {
            tokio::time::sleep(LOOK).await;
            // The time relates the failure to the events of the fleet.
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            let errors = format!("{now}: {}", errors.join("; "));
            state.failed.lock().unwrap().push(errors);
        }
        state.ended.lock().unwrap()[pair] += 1;
    }
}
