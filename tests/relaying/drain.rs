//! Drain of a relay process on SIGTERM, with real clients. Expected: no circuit is lost.

#![expect(clippy::disallowed_methods, reason = "tests have no task tracker")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::unchecked_time_subtraction,
    reason = "tests fail loudly"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use circuit_relay::wire::{self, HOP_PROTOCOL, HopMessage, HopType, Peer, Status};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, Stream,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use test_support::{
    client::{Client, Security, TEST_PROTOCOL},
    process::{Relay, is},
};
use tokio::time::sleep;

const SIGTERM: i32 = 15;
const SIGALRM: i32 = 14;
/// Time limit for anything that does not wait for a deadline, on a busy machine too.
const AT_ONCE: Duration = Duration::from_secs(9);

fn is_closed<E>(event: &SwarmEvent<E>) -> Option<()> {
    matches!(
        event,
        SwarmEvent::ConnectionClosed {
            num_established: 0,
            ..
        }
    )
    .then_some(())
}

/// Sends a hop request on an existing connection.
async fn hop(
    streams: &mut libp2p_stream::Control,
    relay: PeerId,
    target: Option<PeerId>,
) -> HopMessage {
    let stream = streams.open_stream(relay, HOP_PROTOCOL).await.unwrap();
    request(stream, target).await.0
}

/// The response to a request, and the stream.
async fn request(mut stream: Stream, target: Option<PeerId>) -> (HopMessage, Stream) {
    let kind = if target.is_some() {
        HopType::Connect
    } else {
        HopType::Reserve
    };
    let peer = target.map(|target| Peer {
        id: Some(target.to_bytes()),
        addrs: Vec::new(),
    });
    let request = HopMessage {
        kind: Some(kind.into()),
        peer,
        ..HopMessage::default()
    };
    wire::write(&mut stream, &request).await.unwrap();
    let answer = wire::read(&mut stream).await.unwrap();
    (answer, stream)
}

/// The signal arrives during a transfer on a circuit.
async fn a_busy_circuit_completes(address: impl Fn(&Relay) -> Multiaddr) {
    let mut relay = Relay::start(&[("RELAY_DRAIN_WINDOW", "0")]).await;
    let address = address(&relay);
    let mut target = Client::new(Security::Noise).await;
    target.reserve(&address).await.unwrap();
    let target_id = target.peer_id;
    let target = target.echo();
    let mut source = Client::new(Security::Noise).await;
    source.connect(&address, target_id).await.unwrap();
    let mut streams = source.streams.clone();
    let source = source.run();

    let (mut reader, mut writer) = streams
        .open_stream(target_id, TEST_PROTOCOL)
        .await
        .unwrap()
        .split();
    let sent: Vec<u8> = (0..5_000_000u32)
        .map(|n| u8::try_from(n * 7 % 251).unwrap())
        .collect();
    let (before, after) = sent.split_at(2_000_000);
    let mut received = vec![0; 1];
    let first = async {
        writer.write_all(before).await.unwrap();
        relay.signal(SIGTERM);
        relay.event("no new connections are accepted").await;
        writer.write_all(after).await.unwrap();
        writer.close().await.unwrap();
    };
    let ((), read) = tokio::join!(first, async {
        reader.read_exact(&mut received).await.unwrap();
        reader.read_to_end(&mut received).await
    });
    read.unwrap();
    assert!(
        received == sent,
        "{} of {} bytes were echoed",
        received.len(),
        sent.len()
    );
    source.abort();
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_finished"], 1, "{summary}");
    assert_eq!(summary["circuits_cut"], 0, "{summary}");
    assert_eq!(relay.exit_code().await, Some(0));
    target.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_circuit_over_tcp_completes_and_the_process_ends() {
    a_busy_circuit_completes(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_circuit_over_quic_completes_and_the_process_ends() {
    a_busy_circuit_completes(Relay::quic).await;
}

async fn requests_during_the_drain(address: impl Fn(&Relay) -> Multiaddr) {
    let mut relay = Relay::start(&[
        ("RELAY_DRAIN_TIMEOUT", "30m"),
        ("RELAY_DRAIN_WINDOW", "30m"),
        ("RELAY_RESERVATION_TTL", "24h"),
    ])
    .await;
    let relay_id = relay.peer_id;
    let mut target = Client::new(Security::Noise).await;
    target.reserve(&address(&relay)).await.unwrap();
    let (target_id, mut target_streams) = (target.peer_id, target.streams.clone());
    let mut source = Client::new(Security::Noise).await;
    source.dial(&address(&relay)).await;
    let mut source_streams = source.streams.clone();
    let (target, source) = (target.run(), source.run());

    relay.signal(SIGTERM);
    relay.event("no new connections are accepted").await;
    let mut new_client = Client::new(Security::Noise).await;
    let begun = Instant::now();
    new_client
        .swarm
        .dial(DialOpts::from(address(&relay)))
        .unwrap();
    new_client
        .wait("refusal", |event| {
            assert!(!matches!(event, SwarmEvent::ConnectionEstablished { .. }));
            matches!(event, SwarmEvent::OutgoingConnectionError { .. }).then_some(())
        })
        .await;
    assert!(
        begun.elapsed() < AT_ONCE,
        "the refusal waited for a timeout"
    );

    let refused = hop(&mut source_streams, relay_id, None).await;
    assert_eq!(refused.status, Some(Status::ReservationRefused.into()));
    let renewal = hop(&mut target_streams, relay_id, None).await;
    assert_eq!(renewal.status, Some(Status::Ok.into()));
    let expire = renewal.reservation.unwrap().expire.unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(expire <= now + 1800, "a renewal expires after the drain");
    let connected = hop(&mut source_streams, relay_id, Some(target_id)).await;
    assert_eq!(connected.status, Some(Status::Ok.into()));
    let limit = connected.limit.unwrap();
    let seconds = limit.duration.unwrap();
    assert!(
        (1500..1800).contains(&seconds),
        "a circuit ends before the drain, in {seconds} s"
    );
    assert_eq!(limit.data, Some(100_000_000), "data limit during a drain");

    target.abort();
    relay.event("reservation closed").await;
    let after_disconnect = hop(&mut source_streams, relay_id, Some(target_id)).await;
    assert_eq!(after_disconnect.status, Some(Status::NoReservation.into()));

    let begun = Instant::now();
    relay.signal(SIGTERM);
    assert_eq!(relay.exit_code().await, Some(0));
    assert!(
        begun.elapsed() < AT_ONCE,
        "the second signal did not end the process at once"
    );
    source.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_tcp_are_answered_during_the_drain() {
    requests_during_the_drain(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_quic_are_answered_during_the_drain() {
    requests_during_the_drain(Relay::quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_shorter_than_the_minimum_are_refused() {
    let mut relay = Relay::start(&[
        ("RELAY_DRAIN_TIMEOUT", "15s"),
        ("RELAY_DRAIN_WINDOW", "15s"),
        ("RELAY_DRAIN_DELAY", "0"),
    ])
    .await;
    let mut target = Client::new(Security::Noise).await;
    target.reserve(&relay.tcp()).await.unwrap();
    let target_id = target.peer_id;
    let mut source = Client::new(Security::Noise).await;
    source.dial(&relay.tcp()).await;
    let mut streams = source.streams.clone();
    let (target, source) = (target.run(), source.run());
    let before = hop(&mut streams, relay.peer_id, Some(target_id)).await;
    assert_eq!(before.status, Some(Status::Ok.into()));
    relay.signal(SIGTERM);
    relay.event("draining").await;
    let refused = hop(&mut streams, relay.peer_id, Some(target_id)).await;
    assert_eq!(refused.status, Some(Status::ResourceLimitExceeded.into()));
    let denied = relay.event("request denied").await;
    assert_eq!(denied["reason"], "drain_deadline", "{denied}");
    relay.signal(SIGTERM);
    assert_eq!(relay.exit_code().await, Some(0));
    target.abort();
    source.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_are_disconnected_one_by_one_and_move_to_the_next_relay() {
    const CLIENTS: usize = 16;
    let mut old =
        Relay::start(&[("RELAY_DRAIN_WINDOW", "4s"), ("RELAY_DRAIN_TIMEOUT", "1m")]).await;
    let new = Relay::start(&[]).await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = Client::new(Security::Noise).await;
        let address = if n % 2 == 0 { old.tcp() } else { old.quic() };
        client.reserve(&address).await.unwrap();
        clients.push(client);
    }
    old.signal(SIGTERM);
    old.event("draining").await;
    let begun = Instant::now();
    let next = new.tcp();
    let mut moving: FuturesUnordered<_> = clients
        .into_iter()
        .map(async |mut client| {
            client.wait("disconnect", is_closed).await;
            let disconnected = begun.elapsed();
            client.reserve(&next).await.unwrap();
            (disconnected, begun.elapsed() - disconnected)
        })
        .collect();
    let mut disconnected = Vec::new();
    while let Some((after, moved)) = moving.next().await {
        assert!(moved < AT_ONCE, "the new reservation took too long");
        disconnected.push(after);
    }
    disconnected.sort();
    // The slot of each client is 250 ms. A busy machine may observe some of them late.
    for (first, eighth) in disconnected.iter().zip(&disconnected[8..]) {
        let apart = *eighth - *first;
        assert!(
            apart > Duration::from_millis(500),
            "{apart:?} apart in {disconnected:?}"
        );
    }
    let summary = old.event("drained").await;
    assert_eq!(summary["reservations_moved"], CLIENTS, "{summary}");
    assert_eq!(old.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_open_at_the_deadline_are_cut_and_counted_in_the_summary() {
    let mut relay = Relay::start(&[
        ("RELAY_DRAIN_TIMEOUT", "1s"),
        ("RELAY_DRAIN_WINDOW", "1s"),
        ("RELAY_MAX_CIRCUIT_DURATION", "1h"),
    ])
    .await;
    let mut target = Client::new(Security::Noise).await;
    target.reserve(&relay.tcp()).await.unwrap();
    let target_id = target.peer_id;
    let target = target.echo();
    let mut source = Client::new(Security::Noise).await;
    source.connect(&relay.quic(), target_id).await.unwrap();
    relay.event("circuit accepted").await;
    relay.signal(SIGTERM);
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_cut"], 1, "{summary}");
    assert_eq!(relay.exit_code().await, Some(0));
    // The circuit's task logs this event shortly before or after the summary.
    let mut closed = relay.events.iter().filter(|e| is(e, "circuit closed"));
    assert_eq!(closed.next().unwrap()["reason"], "drained");
    source.wait("disconnect", is_closed).await;
    target.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicked_task_starts_the_drain_and_exits_with_code_1() {
    let mut relay = Relay::start(&[]).await;
    relay.signal(SIGALRM);
    let panicked = relay.event("a task panicked").await;
    assert_eq!(panicked["task"], "fault");
    relay.event("draining").await;
    assert_eq!(relay.exit_code().await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_without_connections_ends_with_the_delay() {
    let mut relay = Relay::start(&[("RELAY_DRAIN_DELAY", "1s")]).await;
    relay.signal(15);
    relay.event("draining").await;
    let begun = Instant::now();
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_finished"], 0, "{summary}");
    assert_eq!(relay.exit_code().await, Some(0));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took < AT_ONCE, "{took:?}");
}

/// Opens circuits of 100 ms to `target`, one after the other, until the connection to the relay is
/// closed.
async fn open_short_circuits(mut streams: libp2p_stream::Control, relay: PeerId, target: PeerId) {
    while let Ok(stream) = streams.open_stream(relay, HOP_PROTOCOL).await {
        // The connection may be closed at any time.
        let circuit = tokio::spawn(request(stream, Some(target)));
        let Ok((_, circuit)) = circuit.await else {
            break;
        };
        sleep(Duration::from_millis(100)).await;
        drop(circuit);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn continuous_short_circuits_do_not_delay_the_drain() {
    let mut relay = Relay::start(&[
        ("RELAY_DRAIN_WINDOW", "1s"),
        ("RELAY_DRAIN_TIMEOUT", "1h"),
        // Disables the rate limit, which would refuse circuits.
        ("RELAY_RATE_CIRCUITS_PER_PEER", "0"),
        ("RELAY_RATE_CIRCUITS_PER_IP", "0"),
    ])
    .await;
    let relay_id = relay.peer_id;
    let mut target = Client::new(Security::Noise).await;
    target.reserve(&relay.tcp()).await.unwrap();
    let target_id = target.peer_id;
    let target = target.run();
    let mut sources = Vec::new();
    // With two alternating sources, a circuit is always open.
    for _ in 0..2 {
        let mut source = Client::new(Security::Noise).await;
        source.dial(&relay.tcp()).await;
        let circuits = open_short_circuits(source.streams.clone(), relay_id, target_id);
        let circuits = tokio::spawn(circuits);
        sources.push((source.run(), circuits));
        sleep(Duration::from_millis(50)).await;
    }
    relay.event("circuit closed").await;
    relay.signal(SIGTERM);
    relay.event("no new connections are accepted").await;
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_cut"], 0, "{summary}");
    assert_eq!(summary["reservations_moved"], 1, "{summary}");
    for (source, circuits) in sources {
        circuits.await.unwrap();
        source.abort();
    }
    assert_eq!(relay.exit_code().await, Some(0));
    target.abort();
}
