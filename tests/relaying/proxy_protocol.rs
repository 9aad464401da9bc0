//! The PROXY protocol: the effective client address, and the trust in proxies.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::time::{Duration, Instant};

use circuit_relay::wire::Status;
use futures::future::join_all;
use libp2p::{Multiaddr, identify, swarm::SwarmEvent};
use test_support::{
    PATIENCE,
    client::{BehaviourEvent, Client, Security},
    forward::{Forward, connect, header, local, loopback},
    ordinary_clients,
    process::{Relay, socket},
    prometheus::Scrape,
    raw::{Raw, assert_status},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use transports::tcp::HEADER_TIMEOUT;

/// The trusted proxy is at 127.0.0.2, and an untrusted peer at 127.0.0.3.
const PROXY: u8 = 2;
const UNTRUSTED: u8 = 3;
const PROXIES: (&str, &str) = ("RELAY_TRUSTED_PROXIES", "127.0.0.2,192.0.2.0/24");
/// Tolerance after a deadline, for a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// A relay with admin endpoints and these variables.
async fn start(variables: &[(&str, &str)]) -> Relay {
    let own = [("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"), PROXIES];
    Relay::start(&[&own, variables].concat()).await
}

/// A proxy of the relay at `address` with all its clients at `client`.
async fn proxy(address: &Multiaddr, client: &str) -> Forward {
    Forward::start(address, loopback(PROXY), header(client)).await
}

/// The address that the relay observes for a client that dials `address`.
async fn observed(address: &Multiaddr) -> Multiaddr {
    let mut client = Client::new(Security::Noise).await;
    client.dial(address).await;
    client
        .wait("identification", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                info,
                ..
            })) => Some(info.observed_addr.clone()),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn client_address_is_read_from_the_header() {
    let relay = start(&[]).await;
    let ipv4 = proxy(&relay.tcp(), "203.0.113.7:4001").await;
    let seen = observed(&ipv4.address()).await;
    assert_eq!(seen, "/ip4/203.0.113.7/tcp/4001".parse().unwrap());
    let ipv6 = proxy(&relay.tcp(), "[2001:db8::7]:4001").await;
    let seen = observed(&ipv6.address()).await;
    assert_eq!(seen, "/ip6/2001:db8::7/tcp/4001".parse().unwrap());
    let websocket = proxy(&relay.websocket(), "203.0.113.7:4001").await;
    let seen = observed(&websocket.address()).await;
    assert_eq!(seen, "/ip4/203.0.113.7/tcp/4001/ws".parse().unwrap());
    ordinary_clients::assert_served(&websocket.address()).await;

    let itself = Forward::start(&relay.tcp(), loopback(PROXY), local()).await;
    let seen = observed(&itself.address()).await.to_string();
    assert!(seen.starts_with("/ip4/127.0.0.2/tcp/"), "{seen}");
    // An untrusted peer needs no header.
    let seen = observed(&relay.tcp()).await.to_string();
    assert!(seen.starts_with("/ip4/127.0.0.1/tcp/"), "{seen}");
    relay.stop().await;
}

/// Reserves with a new peer, and asserts the status.
async fn reserve(address: &Multiaddr, wanted: Status) -> Raw {
    let mut peer = Raw::new(address).await;
    assert_status(&peer.reserve().await, wanted);
    peer
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_rules_apply_to_the_client_address() {
    let variables = [
        ("RELAY_MAX_RESERVATIONS_PER_IP", "1"),
        ("RELAY_ACCESS_RESERVE_DENY", "203.0.113.66"),
    ];
    let relay = start(&variables).await;
    let first = proxy(&relay.tcp(), "203.0.113.7:4001").await;
    let second = proxy(&relay.tcp(), "203.0.113.8:4001").await;
    let mapped = proxy(&relay.tcp(), "[::ffff:203.0.113.8]:4001").await;
    let denied = proxy(&relay.tcp(), "203.0.113.66:4001").await;
    let _first = reserve(&first.address(), Status::Ok).await;
    reserve(&first.address(), Status::ReservationRefused).await;
    let _second = reserve(&second.address(), Status::Ok).await;
    reserve(&mapped.address(), Status::ReservationRefused).await;
    reserve(&denied.address(), Status::PermissionDenied).await;
    relay.stop().await;
}

/// Waits until the relay closes the connection. Returns the duration.
async fn time_until_closed(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut rest = Vec::new();
    // Both a FIN and a reset are accepted.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty(), "the relay sent {rest:?}");
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_for_the_client() {
    let relay = start(&[("RELAY_RATE_CONNECTIONS_PER_IP", "2+1/h")]).await;
    let target = socket(&relay.tcp());
    for (client, are_open) in [
        ("203.0.113.7:1", 2),
        ("203.0.113.8:1", 2),
        ("[2001:db8::1]:1", 2),
    ] {
        let mut open = 0;
        for _ in 0..5 {
            let mut stream = connect(loopback(PROXY), target).await.unwrap();
            let hello = [header(client), b"\x13/multistream/1.0.0\n".to_vec()].concat();
            stream.write_all(&hello).await.unwrap();
            let mut answer = [0; 20];
            let answered = timeout(PATIENCE, stream.read_exact(&mut answer)).await;
            open += usize::from(answered.unwrap().is_ok());
        }
        assert_eq!(open, are_open, "{client}");
    }
    // Another client in the same /64.
    let mut stream = connect(loopback(PROXY), target).await.unwrap();
    stream.write_all(&header("[2001:db8::2]:1")).await.unwrap();
    assert!(time_until_closed(&mut stream).await < HEADER_TIMEOUT);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_headers_of_untrusted_peers_are_rejected() {
    let relay = start(&[("RELAY_MAX_RESERVATIONS_PER_IP", "1")]).await;
    let mut stream = connect(loopback(UNTRUSTED), socket(&relay.tcp()))
        .await
        .unwrap();
    stream.write_all(&header("203.0.113.7:4001")).await.unwrap();
    // The relay treats the header as an invalid connection start.
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.len() <= 20, "{answer:?}");
    // Without a header, the untrusted peer is served with its own address.
    let plain = Forward::start(&relay.tcp(), loopback(UNTRUSTED), Vec::new()).await;
    let _reserved = reserve(&plain.address(), Status::Ok).await;
    reserve(&plain.address(), Status::ReservationRefused).await;
    relay.stop().await;
}

/// Invalid headers are refused at once, missing ones after the timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_a_header_is_refused() {
    let relay = start(&[]).await;
    let mut oversized = header("203.0.113.7:4001");
    oversized[14] = 0xff;
    let mut datagrams = header("203.0.113.7:4001");
    datagrams[13] = 0x12;
    let wrong: [&[u8]; 5] = [
        b"PROXY TCP4 203.0.113.7 198.51.100.1 4001 9000\r\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n",
        &[0xff; 64],
        &oversized,
        &datagrams,
    ];
    for address in [relay.tcp(), relay.websocket()] {
        for bytes in wrong {
            let mut stream = connect(loopback(PROXY), socket(&address)).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            assert!(
                time_until_closed(&mut stream).await < HEADER_TIMEOUT,
                "{bytes:?}"
            );
        }
        // A health check that only connects does not count as refused.
        drop(connect(loopback(PROXY), socket(&address)).await.unwrap());
    }
    let refused = Some(f64::from(2 * u32::try_from(wrong.len()).unwrap()));
    let counted = timeout(PATIENCE, async {
        while refusals(&relay).await != refused {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(counted.await.is_ok(), "{:?}", refusals(&relay).await);
    let proxy = proxy(&relay.tcp(), "203.0.113.7:4001").await;
    ordinary_clients::assert_served(&proxy.address()).await;
    assert_eq!(refusals(&relay).await, refused);
    relay.stop().await;
}

/// The number of connections refused because of their header.
async fn refusals(relay: &Relay) -> Option<f64> {
    let reason = [("reason", "proxy_header")];
    let scrape = Scrape::of(relay).await;
    scrape.sum("relay_connection_denied_total", &reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_headers_do_not_delay_other_connections() {
    const SLOW: usize = 300;
    let relay = start(&[]).await;
    let target = socket(&relay.tcp());
    let mut slow = Vec::new();
    for n in 0..SLOW {
        let mut stream = connect(loopback(PROXY), target).await.unwrap();
        let header = header("203.0.113.7:4001");
        stream.write_all(&header[..n % header.len()]).await.unwrap();
        slow.push(stream);
    }
    let proxy = proxy(&relay.tcp(), "203.0.113.8:4001").await;
    ordinary_clients::assert_served(&proxy.address()).await;
    ordinary_clients::assert_served(&relay.tcp()).await;
    for waited in join_all(slow.iter_mut().map(time_until_closed)).await {
        assert!(waited < HEADER_TIMEOUT + SLACK, "{waited:?}");
    }
    ordinary_clients::assert_served(&proxy.address()).await;
    relay.stop().await;
}
