//! Requests on in-memory hop streams with paused time.

mod reports;

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures::future::join_all;
use libp2p::{identity::Keypair, swarm::ConnectionId};
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::*;
use crate::{
    Access, Config, Limits, Observer, Requester,
    connection::StopReply,
    guards::Registration,
    limits::RequestRateLimits,
    request_shaper,
    wire::{HopType, Peer, Status},
};

/// An access endpoint that counts queries, and a rule that can be switched on.
#[derive(Debug, Default)]
struct Endpoint {
    queries: AtomicUsize,
    denies: AtomicBool,
    rule_denies: AtomicBool,
}

impl Endpoint {
    fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Access for Endpoint {
    async fn may_reserve(&self, peer: Requester) -> Result<(), Denied> {
        self.may_repeat_reserve(peer)?;
        self.queries.fetch_add(1, Ordering::Relaxed);
        if self.denies.load(Ordering::Relaxed) {
            return Err(DenyReason::AccessDecision.into());
        }
        Ok(())
    }

    fn may_repeat_reserve(&self, _: Requester) -> Result<(), Denied> {
        if self.rule_denies.load(Ordering::Relaxed) {
            return Err(DenyReason::AccessRules.into());
        }
        Ok(())
    }

    async fn may_connect(&self, _: Requester, _: PeerId) -> Result<(), Denied> {
        Ok(())
    }
}

/// A relay with a capacity of one reservation, and its access control.
struct Fixture {
    relay: Arc<Relay>,
    endpoint: Arc<Endpoint>,
    connections: Mutex<usize>,
}

/// A registered connection of a client.
struct Client {
    relay: Arc<Relay>,
    connection: Arc<Connection>,
    _stops: mpsc::Receiver<StopReply>,
    _registration: Registration,
}

impl Fixture {
    fn new() -> Self {
        Self::observed_by(Arc::new(()))
    }

    fn observed_by(observer: Arc<dyn Observer>) -> Self {
        let endpoint = Arc::new(Endpoint::default());
        let limits = Limits {
            reservations: Some(1),
            reservation_ttl: Duration::from_secs(3600),
            reservation_rate: RequestRateLimits::default(),
            ..Limits::default()
        };
        let relay = Relay::new(
            Keypair::generate_ed25519(),
            Config {
                limits,
                access: Some(Arc::clone(&endpoint) as Arc<dyn Access>),
                observer,
                ..Config::default()
            },
        );
        relay.announce(&["/ip4/192.0.2.1/tcp/9000".parse().unwrap()]);
        Self {
            relay,
            endpoint,
            connections: Mutex::default(),
        }
    }

    fn client(&self, peer: PeerId) -> Client {
        let mut number = self.connections.lock().unwrap();
        *number += 1;
        let id = ConnectionId::new_unchecked(*number);
        let remote = "/ip4/192.0.2.2/tcp/4001".parse().unwrap();
        let (connection, stops) = Connection::new(peer, id, None, &remote);
        let connection = Arc::new(connection);
        Client {
            relay: Arc::clone(&self.relay),
            connection: Arc::clone(&connection),
            _stops: stops,
            _registration: Registration::new(Arc::clone(&self.relay), connection),
        }
    }
}

impl Client {
    async fn request(&self, request: &HopMessage) -> HopMessage {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (relay, connection) = (Arc::clone(&self.relay), Arc::clone(&self.connection));
        let client = async {
            let mut near = near.compat();
            wire::write(&mut near, request).await.unwrap();
            let answer = wire::read(&mut near).await.unwrap();
            near.close().await.unwrap();
            answer
        };
        tokio::join!(serve(relay, connection, far.compat()), client).1
    }

    async fn connect(&self, target: PeerId) -> HopMessage {
        let request = HopMessage {
            kind: Some(HopType::Connect.into()),
            peer: Some(Peer {
                id: Some(target.to_bytes()),
                addrs: Vec::new(),
            }),
            ..HopMessage::default()
        };
        self.request(&request).await
    }

    async fn reserve(&self) -> HopMessage {
        let request = HopMessage {
            kind: Some(HopType::Reserve.into()),
            ..HopMessage::default()
        };
        self.request(&request).await
    }

    /// Reserves successfully, and returns the expiry.
    async fn expire(&self) -> u64 {
        let answer = self.reserve().await;
        assert!(is(&answer, Status::Ok), "{answer:?}");
        answer.reservation.unwrap().expire.unwrap()
    }
}

fn is(answer: &HopMessage, status: Status) -> bool {
    answer.status == Some(status.into())
}

/// The expiry is computed from the system clock, which is not paused: it may differ by one second
/// at the end of a test.
fn assert_same(expire: u64, first: u64) {
    assert!(expire.abs_diff(first) <= 1, "{expire} is not {first}");
}

#[tokio::test(start_paused = true)]
async fn early_renewals_repeat_the_expiry_on_a_full_relay() {
    let fixture = Fixture::new();
    let client = fixture.client(PeerId::random());
    let first = client.expire().await;
    for _ in 0..4 {
        tokio::time::advance(Duration::from_millis(1200)).await;
        // The expiry is computed from a clock that was not advanced.
        let expire = client.expire().await;
        assert!(expire < first, "{expire} is not earlier than {first}");
    }
    assert_eq!(fixture.endpoint.queries(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_same(client.expire().await, first);
    assert_eq!(fixture.endpoint.queries(), 2);
    let other = fixture.client(PeerId::random());
    assert!(is(&other.reserve().await, Status::ReservationRefused));
}

#[tokio::test(start_paused = true)]
async fn flood_of_renewals_is_delayed_and_rarely_queries_the_access_endpoint() {
    const RENEWALS: u32 = 500;
    let fixture = Fixture::new();
    let client = fixture.client(PeerId::random());
    let begun = Instant::now();
    for _ in 0..RENEWALS {
        client.expire().await;
    }
    let took = begun.elapsed();
    let least = request_shaper::INTERVAL * (RENEWALS - request_shaper::BURST);
    assert!(took >= least, "{took:?}");
    assert!(took < least + Duration::from_secs(1), "{took:?}");
    let queries = u64::try_from(fixture.endpoint.queries()).unwrap();
    assert!(queries <= 1 + took.as_secs() / 5, "{queries} queries");
}

#[tokio::test(start_paused = true)]
async fn simultaneous_renewals_are_delayed_one_after_the_other() {
    let fixture = Fixture::new();
    let client = fixture.client(PeerId::random());
    let begun = Instant::now();
    for _ in 0..request_shaper::BURST - 9 {
        client.expire().await;
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    join_all((0..20).map(|_| client.expire())).await;
    assert_eq!(begun.elapsed(), request_shaper::INTERVAL * 11);
}

#[tokio::test(start_paused = true)]
async fn denial_of_the_endpoint_reaches_renewals_within_seconds() {
    let fixture = Fixture::new();
    let client = fixture.client(PeerId::random());
    client.expire().await;
    fixture.endpoint.denies.store(true, Ordering::Relaxed);
    client.expire().await;
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(is(&client.reserve().await, Status::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn rule_denies_a_renewal_at_once() {
    let fixture = Fixture::new();
    let client = fixture.client(PeerId::random());
    client.expire().await;
    fixture.endpoint.rule_denies.store(true, Ordering::Relaxed);
    assert!(is(&client.reserve().await, Status::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn renewal_on_another_connection_makes_it_hold_the_reservation() {
    let fixture = Fixture::new();
    let peer = PeerId::random();
    let (one, other) = (fixture.client(peer), fixture.client(peer));
    one.expire().await;
    assert!(!other.connection.holds_reservation());
    other.expire().await;
    assert!(one.connection.holds_reservation() && other.connection.holds_reservation());
    assert_eq!(fixture.endpoint.queries(), 2);
}

#[tokio::test(start_paused = true)]
async fn renewal_during_a_drain_ends_with_the_drain() {
    let fixture = Fixture::new();
    let client = fixture.client(PeerId::random());
    let first = client.expire().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    fixture.relay.drain(deadline.into_std());
    assert_same(client.expire().await, first - 3600 + 60);
}

#[tokio::test(start_paused = true)]
async fn circuit_evicted_while_being_opened_is_refused() {
    let fixture = Fixture::new();
    let (source, target) = (PeerId::random(), PeerId::random());
    let target = fixture.client(target);
    let state = CircuitState::default();
    let connections = vec![Arc::clone(&target.connection)];
    let limit = CircuitLimit::default();
    let open = open_stop(&fixture.relay, &state, connections, source, limit, &());
    let evict = async { state.evict() };
    let (opened, ()) = tokio::join!(open, evict);
    assert_eq!(opened.err(), Some(DenyReason::Evicted));
    assert!(!target.connection.is_busy(), "the attempt leaves no state");
}

#[tokio::test(start_paused = true)]
async fn unresponsive_target_fails_the_circuit_within_the_deadline() {
    let fixture = Fixture::new();
    let (source, target) = (fixture.client(PeerId::random()), PeerId::random());
    let connections: Vec<_> = (0..8).map(|_| fixture.client(target)).collect();
    connections[0].expire().await;
    let begun = Instant::now();
    let answer = source.connect(target).await;
    assert!(is(&answer, Status::ConnectionFailed), "{answer:?}");
    assert_eq!(begun.elapsed(), stop::STOP_TIMEOUT);
    assert!(
        connections
            .iter()
            .all(|client| !client.connection.is_busy())
    );
    assert_eq!(fixture.relay.statistics().circuits, 0);
}
