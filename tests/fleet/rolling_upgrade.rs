//! Rolling upgrade: three relays are restarted one after the other under traffic. Expected: no request
//! fails.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    net::{TcpListener, UdpSocket},
    time::Duration,
};

use libp2p::PeerId;
use test_support::{
    fleet::{Fleet, Traffic},
    process::Relay,
};

const PAIRS: usize = 4;

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
    let mut traffic = Traffic::new(Duration::from_secs(3));
    for pair in 0..PAIRS {
        // Half of the pairs use TCP, the other half QUIC.
        let address = if pair % 2 == 0 {
            Relay::tcp
        } else {
            Relay::quic
        };
        let fleet = Fleet {
            relays: relays.iter().map(address).collect(),
            name_servers: Vec::new(),
        };
        traffic.add(fleet).await;
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
        // Continues after all three relays have served further requests.
        traffic.wait_for_requests(10).await;
    }
    let outcome = traffic.stop().await;
    outcome.assert_none_failed();
    assert_eq!(outcome.cut, [] as [String; 0]);
    assert!(outcome.requests > 30 * PAIRS);
    assert_eq!(cut, 0);
}
