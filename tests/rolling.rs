//! A fleet is upgraded: three relays are restarted one after the other under traffic, and no
//! request fails.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod support;

use std::{
    collections::BTreeSet,
    net::{TcpListener, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, core::transport::ListenerId, multiaddr::Protocol, relay::client,
    swarm::SwarmEvent,
};
use support::{
    client::{BehaviourEvent, Client, Security, TEST_PROTOCOL},
    process::Relay,
};
use tokio::time::timeout;

/// How many relays a target reserves on.
const REDUNDANCY: usize = 2;
const PAIRS: usize = 4;
/// How long a step of a request may take until it counts as failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// The relays on which a target holds a reservation, as indices into the fleet.
type Reserved = Arc<Mutex<BTreeSet<usize>>>;

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

/// One request through one relay, on a circuit of its own.
async fn request(target: PeerId, relay: &Multiaddr) -> Result<(), String> {
    let mut source = Client::new(Security::Noise).await;
    let connected = timeout(STEP_TIMEOUT, source.connect(relay, target)).await;
    connected.unwrap_or_else(|_| Err("the circuit timed out".to_owned()))?;
    let mut streams = source.streams.clone();
    let run = source.run();
    let exchange = async {
        let stream = streams.open_stream(target, TEST_PROTOCOL).await;
        let mut stream = stream.map_err(|error| error.to_string())?;
        stream
            .write_all(&[7; 4096])
            .await
            .map_err(|error| error.to_string())?;
        stream.close().await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .await
            .map_err(|error| error.to_string())?;
        if answer == [7; 4096] {
            Ok(())
        } else {
            Err(format!("{} bytes", answer.len()))
        }
    };
    let result = timeout(STEP_TIMEOUT, exchange).await;
    run.abort();
    result.unwrap_or_else(|_| Err("the exchange timed out".to_owned()))
}

#[derive(Default)]
struct Traffic {
    done: AtomicBool,
    requests: AtomicUsize,
    retried: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// Requests until told to stop, each on one of the target's relays and then on the others.
async fn requester(
    target: PeerId,
    fleet: Vec<Multiaddr>,
    reserved: Reserved,
    traffic: Arc<Traffic>,
) {
    while !traffic.done.load(Ordering::Relaxed) {
        let mut errors = Vec::new();
        let mut relays: Vec<usize> = reserved.lock().unwrap().iter().copied().collect();
        let turn = traffic.requests.fetch_add(1, Ordering::Relaxed);
        let turns = turn % relays.len().max(1);
        relays.rotate_left(turns);
        let mut is_served = false;
        for relay in relays {
            match request(target, &fleet[relay]).await {
                Ok(()) => {
                    is_served = true;
                    break;
                }
                Err(error) => errors.push(format!("relay {relay}: {error}")),
            }
            traffic.retried.fetch_add(1, Ordering::Relaxed);
        }
        if !is_served {
            traffic.failed.lock().unwrap().push(errors.join("; "));
        }
    }
}

fn free_ports() -> (u16, u16) {
    let tcp = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let udp = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    (tcp, udp)
}

async fn start(instance: &str, (tcp, udp): (u16, u16)) -> Relay {
    let listen = format!("/ip4/127.0.0.1/tcp/{tcp},/ip4/127.0.0.1/udp/{udp}/quic-v1");
    Relay::start(&[
        ("RELAY_LISTEN_ADDRESSES", &listen),
        ("RELAY_IDENTITY_SEED", "the seed of the fleet of this test"),
        ("RELAY_INSTANCE", instance),
        ("RELAY_DRAIN_DELAY", "500ms"),
        ("RELAY_DRAIN_WINDOW", "2s"),
        ("RELAY_DRAIN_TIMEOUT", "1m"),
        ("RELAY_MAX_CIRCUIT_DURATION", "1m"),
        ("RELAY_MAX_CIRCUITS_PER_PEER", "0"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_request() {
    let names = ["relay-0", "relay-1", "relay-2"];
    let ports = names.map(|_| free_ports());
    let mut relays = Vec::new();
    for (name, ports) in names.iter().zip(ports) {
        relays.push(start(name, ports).await);
    }
    let peer_ids: Vec<PeerId> = relays.iter().map(|relay| relay.peer_id).collect();
    let traffic = Arc::new(Traffic::default());
    let (mut targets, mut requesters) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        // Half of the pairs over TCP, half over QUIC.
        let address = if pair % 2 == 0 {
            Relay::tcp
        } else {
            Relay::quic
        };
        let fleet: Vec<Multiaddr> = relays.iter().map(address).collect();
        let client = Client::new(Security::Noise).await;
        let (target_id, reserved) = (client.peer_id, Reserved::default());
        targets.push(tokio::task::spawn(target(
            client,
            fleet.clone(),
            pair,
            reserved.clone(),
        )));
        while reserved.lock().unwrap().len() < REDUNDANCY {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        requesters.push(tokio::task::spawn(requester(
            target_id,
            fleet,
            reserved,
            Arc::clone(&traffic),
        )));
    }
    let mut cut = 0;
    for (n, name) in names.iter().enumerate() {
        relays[n].signal(15);
        let summary = relays[n].event("drained").await;
        cut += summary["circuits_cut"].as_u64().unwrap();
        assert_eq!(relays[n].exit_code().await, Some(0));
        relays[n] = start(name, ports[n]).await;
        assert_eq!(
            relays[n].peer_id, peer_ids[n],
            "the same peer id after the restart"
        );
        // The next one goes when some requests have been served by all three again.
        let served = traffic.requests.load(Ordering::Relaxed);
        while traffic.requests.load(Ordering::Relaxed) < served + 10 * PAIRS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    traffic.done.store(true, Ordering::Relaxed);
    for requester in requesters {
        requester.await.unwrap();
    }
    for target in targets {
        target.abort();
    }
    let requests = traffic.requests.load(Ordering::Relaxed);
    let retried = traffic.retried.load(Ordering::Relaxed);
    println!("{requests} requests, {retried} retried on another relay, {cut} circuits cut");
    let failed = traffic.failed.lock().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {requests} failed: {:#?}",
        failed.len(),
        *failed
    );
    assert!(requests > 30 * PAIRS);
    assert_eq!(cut, 0);
}
