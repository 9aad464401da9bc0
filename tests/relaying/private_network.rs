//! A private network: clients with its pre-shared key connect to each other through the relay, all others
//! are rejected.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::process::Stdio;

use libp2p::{
    Multiaddr,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use libp2p_pnet::PreSharedKey;
use tempfile::NamedTempFile;
use test_support::{
    client::{Client, Security, assert_echoed},
    process::Relay,
    prometheus::Scrape,
};
use tokio::process::Command;

const LISTEN: (&str, &str) = (
    "RELAY_LISTEN_ADDRESSES",
    "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/tcp/0/ws",
);

fn key() -> PreSharedKey {
    PreSharedKey::new([7; 32])
}

async fn start(variables: &[(&str, &str)]) -> Relay {
    let key = key().to_key_file();
    let variables: Vec<_> = [LISTEN, ("RELAY_SWARM_KEY", &key)]
        .into_iter()
        .chain(variables.iter().copied())
        .collect();
    Relay::start(&variables).await
}

async fn assert_relays(address: impl Fn(&Relay) -> Multiaddr) {
    let mut relay = start(&[]).await;
    let address = address(&relay);
    let mut target = Client::in_private_network(key());
    target.reserve(&address).await.unwrap();
    let target_id = target.peer_id;
    let target = target.echo();
    let mut source = Client::in_private_network(key());
    source.connect(&address, target_id).await.unwrap();
    let mut streams = source.streams.clone();
    let source = source.run();
    let sent: Vec<u8> = (0..3_000_000u32)
        .map(|n| u8::try_from(n * 7 % 251).unwrap())
        .collect();
    assert_echoed(&mut streams, target_id, &sent).await;
    source.abort();
    target.abort();
    relay.event("reservation closed").await;
    relay.signal(15);
    assert_eq!(relay.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp() {
    assert_relays(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_websocket() {
    assert_relays(Relay::websocket).await;
}

/// Asserts that a dial of the relay fails.
async fn assert_rejected(mut client: Client, address: &Multiaddr) {
    client.swarm.dial(DialOpts::from(address.clone())).unwrap();
    client
        .wait("failure", |event| {
            assert!(!matches!(event, SwarmEvent::ConnectionEstablished { .. }));
            matches!(event, SwarmEvent::OutgoingConnectionError { .. }).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_the_key_are_rejected() {
    let mut relay = start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    for address in [relay.tcp(), relay.websocket()] {
        let other_key = PreSharedKey::new([8; 32]);
        assert_rejected(Client::in_private_network(other_key), &address).await;
        assert_rejected(Client::new(Security::Noise).await, &address).await;
    }
    let refused = relay.event("connection refused").await;
    assert_eq!(refused["reason"], "swarm_key", "{refused}");
    let scrape = Scrape::of(&relay).await;
    let reason = [("reason", "swarm_key")];
    let refused = scrape.sum("relay_connection_denied_total", &reason);
    assert_eq!(refused, Some(4.0));
    // The rejections do not affect other clients.
    let mut client = Client::in_private_network(key());
    client.reserve(&relay.tcp()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_uses_the_private_network_key() {
    let relay = start(&[]).await;
    let file = NamedTempFile::new().unwrap();
    let mut binary = b"/key/swarm/psk/1.0.0/\n/bin/\n".to_vec();
    binary.extend([7; 32]);
    std::fs::write(file.path(), binary).unwrap();
    for address in [relay.tcp(), relay.websocket()] {
        let probe = Command::new(env!("CARGO_BIN_EXE_descord-relay"))
            .args(["probe", "--bytes=1MB", "--swarm-key"])
            .arg(file.path())
            .arg(address.to_string())
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        assert!(probe.status.success(), "{probe:?}");
    }
}
