//! A relay with libp2p's own server behaviour, for comparison with `descord-relay`.
//!
//! `cargo run --manifest-path benches/stock-relay/Cargo.toml` listens on free loopback ports over TCP,
//! QUIC and WebSocket. When ready, it prints a JSON line like `descord-relay`. `RELAY_MAX_RESERVATIONS`,
//! `RELAY_MAX_CIRCUITS`, `RELAY_MAX_CIRCUITS_PER_PEER`, `RELAY_MAX_CIRCUIT_BYTES` and
//! `RELAY_MAX_CIRCUIT_DURATION` (seconds) set its limits, as integers above 0. It has no rate limits.

use std::{error::Error, str::FromStr, time::Duration};

use futures::StreamExt;
use libp2p::{
    PeerId, SwarmBuilder, Transport, core::upgrade::Version, identify, multiaddr::Protocol, noise,
    ping, relay, swarm::NetworkBehaviour, swarm::SwarmEvent, tcp, tls, websocket, yamux,
};

/// A second address over TCP, for clients that need more ports than connections to one address can use.
const LISTEN: [&str; 4] = [
    "/ip4/127.0.0.1/tcp/0",
    "/ip4/127.0.0.2/tcp/0",
    "/ip4/127.0.0.1/udp/0/quic-v1",
    "/ip4/127.0.0.1/tcp/0/ws",
];

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

fn variable<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn config() -> relay::Config {
    let usual = relay::Config::default();
    relay::Config {
        max_reservations: variable("RELAY_MAX_RESERVATIONS", usual.max_reservations),
        max_circuits: variable("RELAY_MAX_CIRCUITS", usual.max_circuits),
        max_circuits_per_peer: variable("RELAY_MAX_CIRCUITS_PER_PEER", usual.max_circuits_per_peer),
        max_circuit_bytes: variable("RELAY_MAX_CIRCUIT_BYTES", 100_000_000),
        max_circuit_duration: Duration::from_secs(variable("RELAY_MAX_CIRCUIT_DURATION", 3600)),
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..usual
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            (noise::Config::new, tls::Config::new),
            yamux::Config::default,
        )?
        .with_quic()
        .with_other_transport(|key| {
            Ok(
                websocket::Config::new(tcp::tokio::Transport::new(tcp::Config::default()))
                    .upgrade(Version::V1Lazy)
                    .authenticate(noise::Config::new(key)?)
                    .multiplex(yamux::Config::default()),
            )
        })?
        .with_behaviour(|key| Behaviour {
            relay: relay::Behaviour::new(PeerId::from(key.public()), config()),
            identify: identify::Behaviour::new(identify::Config::new(
                "/stock-relay/1.0.0".to_owned(),
                key.public(),
            )),
            ping: ping::Behaviour::default(),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    for address in LISTEN {
        swarm.listen_on(address.parse()?)?;
    }
    let mut addresses = Vec::new();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            swarm.add_external_address(address.clone());
            addresses.push(
                address
                    .with(Protocol::P2p(*swarm.local_peer_id()))
                    .to_string(),
            );
            if addresses.len() == LISTEN.len() {
                let (id, addresses) = (swarm.local_peer_id(), addresses.join(","));
                println!(
                    r#"{{"message":"relay ready","peer_id":"{id}","addresses":"{addresses}"}}"#
                );
            }
        }
    }
}
