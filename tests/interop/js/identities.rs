//! js-libp2p peers with identity keys of other types. They cannot have ECDSA keys.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;
use test_support::peer_keys::private_rsa_8192;

/// An RSA key of the maximum size, as target and as source.
#[tokio::test]
async fn peers_with_rsa_and_secp256k1_keys_reach_each_other() {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[]).await;
    let relay = address(&relay, "tcp");
    let rsa = json!({ "protobuf": STANDARD.encode(private_rsa_8192()) });
    let secp256k1 = json!({ "type": "secp256k1" });
    for (target, source, encrypter) in [(&rsa, &secp256k1, "noise"), (&secp256k1, &rsa, "tls")] {
        let start = |key: &Value| Peer::with_identity(node, "tcp", encrypter, key.clone());
        let (mut target, mut source) = tokio::join!(start(target), start(source));
        target.ask("reserve", json!({ "relay": relay })).await;
        let path = through(&relay, &target.id);
        source.ask("dial", json!({ "address": path })).await;
        let echo = json!({ "address": path, "bytes": 1000 });
        assert_eq!(source.ask("echo", echo).await, whole(1000));
    }
}
