//! The relay's identify response, and its identify request to each peer.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use circuit_relay::wire::{HOP_PROTOCOL, STOP_PROTOCOL};
use futures::{AsyncWriteExt, StreamExt, future::join_all};
use libp2p::{
    Multiaddr, Stream, StreamProtocol, Swarm, SwarmBuilder, identify, noise, swarm::SwarmEvent,
    tcp, yamux,
};
use libp2p_stream as stream;
use test_support::{
    PATIENCE,
    client::{BehaviourEvent, Client, Security},
    process::Relay,
};
use tokio::time::timeout;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/id/1.0.0");

async fn identified(address: &Multiaddr) -> identify::Info {
    let mut client = Client::new(Security::Noise).await;
    client.dial(address).await;
    client
        .wait("identification", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                info,
                ..
            })) => Some(info.clone()),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn identify_lists_hop_and_external_addresses() {
    let external = [
        "/ip4/192.0.2.1/tcp/9000",
        "/ip6/2001:db8::1/udp/9000/quic-v1",
        "/dns4/relay.example.org/tcp/443/ws",
    ];
    let relay = Relay::start(&[("RELAY_EXTERNAL_ADDRESSES", &external.join(","))]).await;
    for address in [relay.tcp(), relay.quic(), relay.websocket()] {
        let info = identified(&address).await;
        assert_eq!(info.public_key.to_peer_id(), relay.peer_id);
        assert_eq!(
            info.agent_version,
            concat!("descord-relay/", env!("CARGO_PKG_VERSION"))
        );
        assert!(info.signed_peer_record.is_none());

        let listed: BTreeSet<_> = info.listen_addrs.iter().map(ToString::to_string).collect();
        assert_eq!(listed, external.map(String::from).into());
        assert_eq!(
            info.listen_addrs.len(),
            external.len(),
            "none is listed twice"
        );

        assert!(info.protocols.contains(&HOP_PROTOCOL), "{info:?}");
        assert!(!info.protocols.contains(&STOP_PROTOCOL), "{info:?}");
        for name in [
            "/ipfs/id/1.0.0",
            "/ipfs/id/push/1.0.0",
            "/ipfs/ping/1.0.0",
            "/libp2p/autonat/1.0.0",
            "/libp2p/autonat/2/dial-request",
        ] {
            let protocol = StreamProtocol::new(name);
            assert!(info.protocols.contains(&protocol), "{name}: {info:?}");
        }
    }
    relay.stop().await;
}

/// Without configured external addresses, the response lists the listen addresses, and no observed
/// address reported by a peer.
#[tokio::test(flavor = "multi_thread")]
async fn identify_lists_listen_addresses_by_default() {
    let relay = Relay::start(&[]).await;
    let own: BTreeSet<_> = [relay.tcp(), relay.quic(), relay.websocket()]
        .into_iter()
        .map(|mut address| {
            address.pop();
            address.to_string()
        })
        .collect();
    for address in [relay.tcp(), relay.quic()] {
        let info = identified(&address).await;
        let listed: BTreeSet<_> = info.listen_addrs.iter().map(ToString::to_string).collect();
        assert_eq!(listed, own);
    }
    relay.stop().await;
}

/// Programs based on rust-libp2p's hole-punching tutorial wait until they have sent an identify message
/// as well.
#[tokio::test(flavor = "multi_thread")]
async fn relay_identifies_each_peer_once() {
    let relay = Relay::start(&[]).await;
    for address in [relay.tcp(), relay.quic(), relay.websocket()] {
        let mut client = Client::new(Security::Noise).await;
        let connection = client.dial(&address).await;
        let (mut sent, mut received) = (0, 0);
        client
            .wait("messages in both directions", |event| {
                if let SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) = event {
                    match event {
                        identify::Event::Sent { connection_id, .. } => {
                            assert_eq!(*connection_id, connection);
                            sent += 1;
                        }
                        identify::Event::Received { .. } => received += 1,
                        other => panic!("{other:?}"),
                    }
                }
                (sent > 0 && received > 0).then_some(())
            })
            .await;
        assert_eq!((sent, received), (1, 1));
    }
    relay.stop().await;
}

/// A peer that receives identify requests and responds at the stream level.
struct Peer {
    swarm: Swarm<stream::Behaviour>,
    requests: stream::IncomingStreams,
}

impl Peer {
    fn connect(address: &Multiaddr) -> Self {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_quic()
            .with_behaviour(|_| stream::Behaviour::new())
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        let requests = swarm.behaviour().new_control().accept(PROTOCOL).unwrap();
        swarm.dial(address.clone()).unwrap();
        Self { swarm, requests }
    }

    /// The next request.
    async fn request(&mut self) -> Stream {
        let request = async {
            loop {
                tokio::select! {
                    request = self.requests.next() => return request.unwrap().1,
                    _ = self.swarm.select_next_some() => {}
                }
            }
        };
        timeout(PATIENCE, request).await.unwrap()
    }

    /// Waits until the relay has closed the connection.
    async fn closed(&mut self) {
        let closed = async {
            loop {
                tokio::select! {
                    request = self.requests.next() => panic!("another request: {request:?}"),
                    event = self.swarm.select_next_some() => {
                        if matches!(event, SwarmEvent::ConnectionClosed { .. }) {
                            return;
                        }
                    }
                }
            }
        };
        timeout(PATIENCE, closed).await.unwrap();
    }
}

/// The relay's request times out after 10 s. The connection counts as idle during that time.
#[tokio::test(flavor = "multi_thread")]
async fn unanswered_requests_keep_no_connection_open() {
    const IDLE: Duration = Duration::from_secs(5);
    const ANSWER: Duration = Duration::from_secs(10);
    let relay = Relay::start(&[("RELAY_IDLE_TIMEOUT", "5s")]).await;
    let closings = [relay.tcp(), relay.quic()].map(async |address| {
        let mut peer = Peer::connect(&address);
        let request = peer.request().await;
        let begin = Instant::now();
        peer.closed().await;
        drop(request);
        begin.elapsed()
    });
    for lasted in join_all(closings).await {
        assert!(lasted < IDLE + ANSWER, "{lasted:?}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_identify_responses_are_reset() {
    let relay = Relay::start(&[]).await;
    for address in [relay.tcp(), relay.quic()] {
        let mut peer = Peer::connect(&address);
        let mut request = peer.request().await;
        let run = async {
            loop {
                peer.swarm.select_next_some().await;
            }
        };
        let write = async { while request.write_all(&[0; 1024]).await.is_ok() {} };
        let written = async {
            tokio::select! {
                () = run => {}
                () = write => {}
            }
        };
        timeout(PATIENCE, written).await.unwrap();
    }
    relay.stop().await;
}
