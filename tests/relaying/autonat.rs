//! `AutoNAT`: the relay tests the reachability of clients' addresses, and cannot be used as a port
//! scanner.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    io::ErrorKind,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use descord_relay::dialback::{RATE_PER_IP, RATE_PER_PEER};
use futures::{FutureExt, future::join_all};
use libp2p::{Multiaddr, PeerId};
use test_support::{
    autonat::{Client, v1, v2},
    forward::{Forward, header, loopback},
    ordinary_clients,
    process::Relay,
    prometheus::Scrape,
    raw::Raw,
};
use tokio::{task::JoinSet, time::Instant};

const DIALS: &str = "relay_autonat_dials_total";

/// A listening socket that does not speak libp2p.
fn listener(ip: &str) -> (TcpListener, Multiaddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = format!("/ip4/{ip}/tcp/{port}").parse().unwrap();
    (listener, address)
}

/// An address on which the client listens is dialled and reported as reachable.
#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_addresses_are_tested() {
    let relay = Relay::start(&[]).await;
    for over in [relay.tcp(), relay.quic()] {
        let mut client = Client::new(&over).await;
        for address in client.addresses.clone() {
            assert!(client.is_reachable(&address).await, "{address} over {over}");
        }
    }
    relay.stop().await;
}

/// Of several addresses, the relay tests the first one that it may dial.
#[tokio::test(flavor = "multi_thread")]
async fn first_own_address_of_a_request_is_tested() {
    let relay = Relay::start(&[]).await;
    let mut raw = Raw::new(&relay.tcp()).await;
    let (first, second) = (listener("127.0.0.1"), listener("127.0.0.1"));
    let foreign = listener("127.0.0.2");
    let addresses = [foreign.1, first.1, second.1];
    let hang_up = accept_and_close(first.0);
    let (answer, ()) = tokio::join!(v2::request(&mut raw, &addresses), hang_up);
    assert_eq!(answer, (v2::OK, v2::DIAL_ERROR));
    for untouched in [foreign.0, second.0] {
        assert_eq!(
            untouched.accept().unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
    }
    relay.stop().await;
}

/// A go-libp2p client behind a NAT first sends a request without addresses. Another response, or a dial
/// of the observed address, would prevent the client from detecting that it is private.
#[tokio::test(flavor = "multi_thread")]
async fn request_of_version_1_without_addresses_is_answered_with_dial_error() {
    let relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    for over in [relay.tcp(), relay.quic()] {
        let mut raw = Raw::new(&over).await;
        for _ in 0..2 * RATE_PER_PEER.burst.get() {
            assert_eq!(v1::request(&mut raw, &[]).await, v1::DIAL_ERROR);
        }
    }
    let scrape = Scrape::of(&relay).await;
    let count = |outcome| scrape.sum(DIALS, &[("outcome", outcome)]).unwrap_or(0.0);
    let requests = f64::from(4 * RATE_PER_PEER.burst.get());
    assert!((count("no_address") - requests).abs() < 0.5);
    assert!(count("dialled") < 0.5);
    relay.stop().await;
}

/// libp2p's version 1 client is reported as public at its listen address.
#[tokio::test(flavor = "multi_thread")]
async fn named_address_of_version_1_is_dialled() {
    let relay = Relay::start(&[]).await;
    for over in [relay.tcp(), relay.quic()] {
        let own = v1::public_address(&over).await;
        assert!(own.to_string().starts_with("/ip4/127.0.0.1/"), "{own}");
    }
    relay.stop().await;
}

/// Both versions share the rate limits. A refused dial results in no verdict.
#[tokio::test(flavor = "multi_thread")]
async fn dials_of_both_versions_are_limited() {
    let relay = Relay::start(&[]).await;
    let mut raw = Raw::new(&relay.tcp()).await;
    let begun = Instant::now();
    let burst = RATE_PER_PEER.burst.get();
    let (mut dialled, mut refused) = (0, 0);
    for number in 0..2 * burst {
        // The listener is closed.
        let (_, address) = listener("127.0.0.1");
        let is_dialled = if number % 2 == 0 {
            match v1::request(&mut raw, &[address]).await {
                v1::DIAL_ERROR => true,
                v1::DIAL_REFUSED => false,
                other => panic!("{other}"),
            }
        } else {
            match v2::request(&mut raw, &[address]).await {
                (v2::OK, v2::DIAL_ERROR) => true,
                (v2::REQUEST_REJECTED, v2::UNUSED) => false,
                other => panic!("{other:?}"),
            }
        };
        dialled += u32::from(is_dialled);
        refused += u32::from(!is_dialled);
    }
    let refilled = u32::try_from(begun.elapsed().as_secs() / 10).unwrap() + 1;
    assert!((burst..=burst + refilled).contains(&dialled), "{dialled}");
    assert_eq!(dialled + refused, 2 * burst);
    relay.stop().await;
}

/// A request that contains another peer id is invalid.
#[tokio::test(flavor = "multi_thread")]
async fn request_of_version_1_for_another_peer_is_refused() {
    let relay = Relay::start(&[]).await;
    let mut raw = Raw::new(&relay.tcp()).await;
    let other = PeerId::random();
    let answer = v1::request_as(&mut raw, other, &[]).await;
    assert_eq!(answer, v1::BAD_REQUEST);
    relay.stop().await;
}

/// Each version can be disabled.
#[tokio::test(flavor = "multi_thread")]
async fn only_configured_versions_are_served() {
    for (versions, is_v1, is_v2) in [("v1", true, false), ("v2", false, true), ("", false, false)] {
        let relay = Relay::start(&[("RELAY_AUTONAT", versions)]).await;
        let mut raw = Raw::new(&relay.tcp()).await;
        assert_eq!(raw.open(v1::PROTOCOL).await.is_ok(), is_v1, "{versions}");
        assert_eq!(raw.open(v2::PROTOCOL).await.is_ok(), is_v2, "{versions}");
        relay.stop().await;
    }
}

async fn accept_and_close(listener: TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    drop(listener.accept().await.unwrap());
}

/// Behind a trusted proxy, a client's address is the one in the PROXY header.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_clients_own_addresses_are_tested() {
    let relay = Relay::start(&[("RELAY_TRUSTED_PROXIES", "127.0.0.2")]).await;
    let proxy = Forward::start(&relay.tcp(), loopback(2), header("127.0.0.1:4001")).await;
    let mut client = Client::new(&proxy.address()).await;
    for address in client.addresses.clone() {
        assert!(client.is_reachable(&address).await, "{address}");
    }
    let (at_the_proxy, address) = listener("127.0.0.2");
    let mut raw = Raw::new(&proxy.address()).await;
    let answer = v2::request(&mut raw, &[address]).await;
    assert_eq!(answer, (v2::DIAL_REFUSED, v2::UNUSED));
    assert_eq!(
        at_the_proxy.accept().unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    relay.stop().await;
}

/// The relay never dials an address of another machine, whatever the request contains.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_other_machines_are_not_dialled() {
    for is_quic in [false, true] {
        // A new relay each time, so that its rate limits are unused.
        let relay = Relay::start(&[]).await;
        let over = if is_quic { relay.quic() } else { relay.tcp() };
        let (other, address) = listener("127.0.0.2");
        let port = other.local_addr().unwrap().port();
        let foreign: Vec<Multiaddr> = [
            address.to_string(),
            format!("/dns4/localhost/tcp/{port}"),
            format!("/ip6/::ffff:127.0.0.2/tcp/{port}"),
            format!("/ip4/127.0.0.2/tcp/{port}/ws"),
        ]
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
        let mut raw = Raw::new(&over).await;
        let refused = (v2::DIAL_REFUSED, v2::UNUSED);
        for address in &foreign {
            let one = [address.clone()];
            assert_eq!(v2::request(&mut raw, &one).await, refused, "{address}");
        }
        assert_eq!(v2::request(&mut raw, &foreign).await, refused);
        assert_eq!(v1::request(&mut raw, &foreign).await, v1::DIAL_ERROR);
        assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut client = Client::new(&over).await;

        // Verifies the test itself: the client's own address is dialled, with the listener at another
        // port.
        let (own, address) = listener("127.0.0.1");
        let hang_up = accept_and_close(own);
        let (is_reachable, ()) = tokio::join!(client.is_reachable(&address), hang_up);
        assert!(!is_reachable);
        ordinary_clients::assert_served(&over).await;
        relay.stop().await;
    }
}

/// Listening sockets on one address. They close each connection at once, so that dials fail without a delay.
struct Ports {
    dialled: Arc<AtomicU32>,
    addresses: Vec<Multiaddr>,
    _listeners: JoinSet<()>,
}

impl Ports {
    fn new(number: u32) -> Self {
        let dialled = Arc::new(AtomicU32::new(0));
        let mut listeners = JoinSet::new();
        let addresses = (0..number).map(|_| {
            let (listener, address) = listener("127.0.0.1");
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let dialled = Arc::clone(&dialled);
            listeners.spawn(async move {
                drop(listener.accept().await);
                dialled.fetch_add(1, Ordering::Relaxed);
                while listener.accept().await.is_ok() {}
            });
            address
        });
        let addresses = addresses.collect();
        Self {
            dialled,
            addresses,
            _listeners: listeners,
        }
    }

    /// The number of dialled ports.
    fn dialled(&self) -> u32 {
        self.dialled.load(Ordering::Relaxed)
    }
}

/// Waits until a dial is refused for this reason while `clients` send requests. Returns the scrape.
async fn refused(relay: &Relay, reason: &str, clients: impl Future<Output = ()>) -> Scrape {
    let is_refused = |scrape: &Scrape| scrape.sum(DIALS, &[("outcome", reason)]) > Some(0.0);
    tokio::select! {
        scrape = Scrape::find(relay, reason, is_refused) => scrape,
        () = clients => unreachable!("clients send requests until they are dropped"),
    }
}

/// Other hosts may use ports of a shared address. The relay must not scan them for a peer.
#[tokio::test(flavor = "multi_thread")]
async fn dials_for_one_peer_are_limited() {
    let relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    let begun = Instant::now();
    let mut client = Client::new(&relay.tcp()).await;
    let burst = RATE_PER_PEER.burst.get();
    let ports = Ports::new(2 * burst);
    let asks = client.ask(ports.addresses.clone());
    refused(&relay, "rate_per_peer", asks).await;
    let refilled = u32::try_from(begun.elapsed().as_secs() / 10).unwrap();
    let dialled = ports.dialled();
    assert!((1..=burst + refilled).contains(&dialled), "{dialled}");
    relay.stop().await;
}

/// Peer ids are free, so all peers at an address share its rate limit. A refused dial results in no
/// verdict: the client retries until the rate limit admits the dial.
#[tokio::test(flavor = "multi_thread")]
async fn dials_to_one_address_are_limited_for_all_peers() {
    let relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    let begun = Instant::now();
    let burst = RATE_PER_IP.burst.get();
    let ports = Ports::new(2 * burst);
    let (tcp, quic) = (relay.tcp(), relay.quic());
    let clients = ports
        .addresses
        .chunks(4)
        .zip([&tcp, &quic].into_iter().cycle());
    let asks = clients.map(async |(addresses, over)| {
        let mut client = Client::new(over).await;
        client.ask(addresses.to_vec()).await;
    });
    refused(&relay, "rate_per_ip", join_all(asks).map(|_| ())).await;
    let refilled = u32::try_from(begun.elapsed().as_secs() / 10).unwrap();
    let dialled = ports.dialled();
    assert!((1..=burst + refilled).contains(&dialled), "{dialled}");

    let mut client = Client::new(&tcp).await;
    let address = client.addresses.swap_remove(0);
    assert!(client.is_reachable(&address).await);
    let scrape = Scrape::of(&relay).await;
    let dialled = scrape.sum(DIALS, &[("outcome", "dialled")]).unwrap();
    let most = f64::from(burst) + begun.elapsed().as_secs_f64() / 10.0;
    assert!(dialled <= most, "{dialled} of {most}");
    relay.stop().await;
}
