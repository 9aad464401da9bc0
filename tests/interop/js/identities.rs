//! js-libp2p peers with other types of identity keys. js-libp2p does not support ECDSA keys, and its
//! peers reject each other's RSA keys of 8,192 bits.

use base64::{Engine, engine::general_purpose::STANDARD};
use test_support::peer_keys::private_rsa_8192;

use super::*;

/// As target and as source of a circuit.
async fn assert_circuits_in_both_directions(identity: Value) {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[]).await;
    let relay_address = address(&relay, "tcp");
    let mut peer = Peer::with_identity(node, "tcp", "noise", identity).await;
    let reserve = json!({ "relay": relay_address });
    peer.ask("reserve", reserve).await;

    let mut source = Client::new(Security::Noise).await;
    let target = peer.id.parse().unwrap();
    source.connect(&relay.tcp(), target).await.unwrap();
    let mut control = source.streams.clone();
    let _running = AbortOnDropHandle::new(source.run());
    assert_echoed(&mut control, target, b"from Rust to js").await;

    let mut target = Client::new(Security::Noise).await;
    target.reserve(&relay.tcp()).await.unwrap();
    let path = through(&relay_address, &target.peer_id.to_string());
    let _running = AbortOnDropHandle::new(target.echo());
    peer.ask("dial", json!({ "address": path })).await;
    let echo = json!({ "address": path, "bytes": 1000 });
    assert_eq!(peer.ask("echo", echo).await, whole(1000));
}

#[tokio::test]
async fn largest_rsa_key() {
    let identity = json!({ "protobuf": STANDARD.encode(private_rsa_8192()) });
    assert_circuits_in_both_directions(identity).await;
}

#[tokio::test]
async fn secp256k1_key() {
    assert_circuits_in_both_directions(json!({ "type": "secp256k1" })).await;
}
