//! A client of a relay in Rust: it reserves and is dialled, or dials a peer through the relay.
//!
//! ```sh
//! cargo run -p circuit-relay --example client -- RELAY           # reserves, and prints its address
//! cargo run -p circuit-relay --example client -- RELAY ADDRESS   # dials that address, and pings
//! ```
//!
//! `RELAY` is an address of a relay with its peer id, such as `/ip4/127.0.0.1/tcp/9000/p2p/12D3Koo…`.

use std::{env, error::Error, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, SwarmBuilder, identify,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let relay: Multiaddr = arguments
        .next()
        .ok_or("the address of a relay is missing")?
        .parse()?;
    let target: Option<Multiaddr> = arguments.next().map(|text| text.parse()).transpose()?;

    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_quic()
        // Circuits are encrypted end to end, whatever the connection to the relay is.
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|keypair, relay| Behaviour {
            relay,
            identify: identify::Behaviour::new(identify::Config::new(
                "/relay-client/1.0.0".into(),
                keypair.public(),
            )),
            ping: ping::Behaviour::default(),
        })?
        // The library renews the reservation for as long as the connection to the relay is open.
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build();

    match &target {
        Some(address) => swarm.dial(address.clone())?,
        None => {
            swarm.listen_on(relay.with(Protocol::P2pCircuit))?;
        }
    }
    loop {
        match swarm.select_next_some().await {
            // The address ends with the peer id of this client.
            SwarmEvent::NewListenAddr { address, .. } => println!("reachable at {address}"),
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } if endpoint.is_relayed() => {
                println!("connected to {peer_id} through the relay");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                peer,
                result: Ok(round_trip),
                ..
            })) => println!("ping of {peer}: {round_trip:.1?}"),
            // Without a relay this client is not reachable: an application listens again, or on another
            // relay.
            SwarmEvent::ListenerClosed { reason, .. } => {
                return Err(format!("the reservation is lost: {reason:?}").into());
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
}
