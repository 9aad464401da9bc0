//! The relay's answer to `identify`.

use std::collections::BTreeSet;

use descord_relay::relay::wire::{HOP_PROTOCOL, STOP_PROTOCOL};
use libp2p::{Multiaddr, StreamProtocol, identify, swarm::SwarmEvent};

use crate::support::{
    client::{BehaviourEvent, Client, Security},
    process::Relay,
};

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
async fn the_relay_is_a_hop_at_its_external_addresses() {
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

/// Without configured addresses it lists those that it listens on, and nothing that a stranger
/// has seen.
#[tokio::test(flavor = "multi_thread")]
async fn without_external_addresses_it_lists_its_own() {
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
