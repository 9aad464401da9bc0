//! Traffic through a fleet: pairs of clients. The target has reservations on two relays; the requester
//! sends each request on a new circuit.

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

/// Number of relays on which a target reserves.
const REDUNDANCY: usize = 2;
/// Timeout for a step of a request.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Polling interval for state without events.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The relays of a fleet as one pair uses them; each address ends in a peer id.
#[derive(Clone)]
pub struct Fleet {
    pub relays: Vec<Multiaddr>,
    /// Name servers to use; the system's if empty.
    pub name_servers: Vec<SocketAddr>,
}

/// The relays on which a target has a reservation, as indices into the fleet.
type Reserved = Arc<Mutex<BTreeSet<usize>>>;

#[derive(Default)]
struct State {
    done: AtomicBool,
    requests: AtomicUsize,
    /// The number of completed requests of each pair.
    ended: Mutex<Vec<usize>>,
    retried: AtomicUsize,
    cut: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
}

/// Running pairs of clients.
pub struct Traffic {
    long: Duration,
    state: Arc<State>,
    reserved: Vec<Reserved>,
    targets: Vec<JoinHandle<()>>,
    requesters: Vec<JoinHandle<()>>,
}

/// The outcomes of the requests.
pub struct Outcome {
    pub requests: usize,
    /// Attempts that failed on one of the target's relays and were retried on another.
    pub retried: usize,
    /// The errors of circuits that broke before the exchange was complete.
    pub cut: Vec<String>,
    /// The errors of requests that failed on all of the target's relays.
    pub failed: Vec<String>,
}

impl Traffic {
    /// No pairs yet. Every seventh request keeps its circuit open for the duration `long`.
    pub fn new(long: Duration) -> Self {
        Self {
            long,
            state: Arc::default(),
            reserved: Vec::new(),
            targets: Vec::new(),
            requesters: Vec::new(),
        }
    }

    /// Adds a pair. Returns when the target has its reservations.
    pub async fn add(&mut self, fleet: Fleet) {
        let first = self.targets.len();
        let client = Client::with_name_servers(Security::Noise, &fleet.name_servers).await;
        let (id, reserved) = (client.peer_id, Reserved::default());
        let target = target(client, fleet.relays.clone(), first, reserved.clone());
        self.targets.push(tokio::task::spawn(target));
        self.reserved.push(reserved.clone());
        self.wait_for_reservations().await;
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

    /// Waits until every target has its reservations.
    pub async fn wait_for_reservations(&self) {
        let is_short = |reserved: &Reserved| reserved.lock().unwrap().len() < REDUNDANCY;
        self.wait("two reservations of each target", || {
            !self.reserved.iter().any(is_short)
        })
        .await;
    }

    /// Waits until each pair has completed this many further requests. This includes all requests
    /// currently in flight.
    pub async fn wait_for_requests(&self, requests: usize) {
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
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let in_time = timeout(PATIENCE, wait).await.is_ok();
        let failed = self.state.failed.lock().unwrap();
        assert!(in_time, "no {what}: {failed:#?}");
    }

    /// Waits for the requests in flight and starts no further ones.
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
    /// Asserts that each request succeeded on one of the relays.
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

/// Keeps reservations on two relays of the fleet, and replaces those of lost connections.
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

/// Why a request failed on one relay.
enum AttemptError {
    /// The circuit was not established.
    NoCircuit(String),
    /// The circuit broke before the exchange was complete.
    Cut(String),
}

/// Sends a request through one relay, on a new circuit that stays open for at least this long.
async fn request(
    target: PeerId,
    relay: &Multiaddr,
    name_servers: &[SocketAddr],
    length: Duration,
) -> Result<(), AttemptError> {
    let mut source = Client::with_name_servers(Security::Noise, name_servers).await;
    let connected = timeout(STEP_TIMEOUT, source.connect(relay, target)).await;
    connected
        .unwrap_or_else(|_| Err("the circuit timed out".to_owned()))
        .map_err(AttemptError::NoCircuit)?;
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
        .map_err(AttemptError::Cut)
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

/// Sends requests until `done` is set, each on one of the target's relays, then on the others.
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
                Err(AttemptError::NoCircuit(why)) => errors.push(format!("relay {relay}: {why}")),
                Err(AttemptError::Cut(why)) => {
                    let why = format!("relay {relay}: {why}");
                    state.cut.lock().unwrap().push(why.clone());
                    errors.push(why);
                }
            }
            state.retried.fetch_add(1, Ordering::Relaxed);
        }
        if !is_served {
            tokio::time::sleep(POLL_INTERVAL).await;
            // The timestamp relates the failure to the events of the fleet.
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            let errors = format!("{now}: {}", errors.join("; "));
            state.failed.lock().unwrap().push(errors);
        }
        state.ended.lock().unwrap()[pair] += 1;
    }
}
