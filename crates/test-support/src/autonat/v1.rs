//! `AutoNAT` version 1: single requests, and libp2p's client.

use std::time::Duration;

use circuit_relay::wire;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, SwarmBuilder,
    autonat::v1::{Behaviour, Config, NatStatus},
    noise,
    swarm::SwarmEvent,
    tcp, yamux,
};
use tokio::time::timeout;

use crate::{PATIENCE, raw::Raw};

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/autonat/1.0.0");
/// Response status codes.
pub const DIAL_ERROR: i32 = 100;
pub const DIAL_REFUSED: i32 = 101;
pub const BAD_REQUEST: i32 = 200;

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(message, optional, tag = "2")]
    dial: Option<Dial>,
    #[prost(message, optional, tag = "3")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Dial {
    #[prost(message, optional, tag = "1")]
    peer: Option<Peer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Peer {
    #[prost(bytes = "vec", optional, tag = "1")]
    id: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addrs: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(int32, optional, tag = "1")]
    status: Option<i32>,
}

/// Requests a dial of these addresses. Returns the response status.
pub async fn request(raw: &mut Raw, addresses: &[Multiaddr]) -> i32 {
    request_as(raw, raw.peer_id, addresses).await
}

/// As [`request`], with another peer id in the message.
pub async fn request_as(raw: &mut Raw, peer: PeerId, addresses: &[Multiaddr]) -> i32 {
    let mut stream = raw.open(PROTOCOL).await.unwrap();
    let peer = Peer {
        id: Some(peer.to_bytes()),
        addrs: addresses.iter().map(Multiaddr::to_vec).collect(),
    };
    let message = Message {
        kind: Some(0),
        dial: Some(Dial { peer: Some(peer) }),
        response: None,
    };
    wire::write(&mut stream, &message).await.unwrap();
    let answer = timeout(PATIENCE, wire::read::<Message, _>(&mut stream)).await;
    let answer = answer.unwrap().unwrap();
    assert_eq!(answer.kind, Some(1));
    answer.response.unwrap().status.unwrap()
}

/// The public address that libp2p's client determines by requests over this relay address.
pub async fn public_address(relay: &Multiaddr) -> Multiaddr {
    let config = Config {
        boot_delay: Duration::ZERO,
        retry_interval: Duration::from_secs(1),
        confidence_max: 1,
        only_global_ips: false,
        ..Config::default()
    };
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_quic()
        .with_behaviour(|key| Behaviour::new(key.public().to_peer_id(), config))
        .unwrap()
        .build();
    for address in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        swarm.listen_on(address.parse().unwrap()).unwrap();
    }
    let Some(libp2p::multiaddr::Protocol::P2p(id)) = relay.iter().last() else {
        panic!("{relay} has no peer id");
    };
    swarm.behaviour_mut().add_server(id, Some(relay.clone()));
    let public = async {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(_) = event
                && let NatStatus::Public(address) = swarm.behaviour().nat_status()
            {
                return address;
            }
        }
    };
    timeout(PATIENCE, public).await.unwrap()
}
