//! Peers with identity keys of every type.

use circuit_relay::wire::Status;
use libp2p::identity::Keypair;
use test_support::peer_keys::rsa_2048;

use crate::{
    case::Case,
    harness::{circuit, client::Client, server::Server},
};

pub fn cases() -> Vec<Case> {
    const BOTH: &str = "RESERVE: OK, CONNECT: OK";
    vec![
        Case::new(
            "RESERVE and CONNECT by peers with secp256k1 keys",
            |relay| reserve_and_connect_with(relay, Keypair::generate_secp256k1),
            BOTH,
        ),
        Case::new(
            "RESERVE and CONNECT by peers with ECDSA keys",
            |relay| reserve_and_connect_with(relay, Keypair::generate_ecdsa),
            BOTH,
        ),
        Case::new(
            "RESERVE by a peer with an RSA key, and CONNECT to it",
            |relay| async move {
                reserve_and_connect(relay, &rsa_2048(), &Keypair::generate_ed25519()).await
            },
            BOTH,
        ),
        Case::new(
            "CONNECT by a peer with an RSA key",
            |relay| async move {
                reserve_and_connect(relay, &Keypair::generate_ed25519(), &rsa_2048()).await
            },
            BOTH,
        ),
    ]
}

async fn reserve_and_connect_with(relay: Server, key: fn() -> Keypair) -> String {
    reserve_and_connect(relay, &key(), &key()).await
}

/// The peer with the key `target` reserves; the peer with the key `source` connects to it.
async fn reserve_and_connect(relay: Server, target: &Keypair, source: &Keypair) -> String {
    let mut target = Client::with_key(&relay, target);
    let reserved = target.dial(&relay).await.reserve().await;
    let source = Client::with_key(&relay, source);
    let connection = source.dial(&relay).await;
    let reply = circuit::stop_status(Status::Ok);
    let connected = circuit::connect_status(&connection, &mut target, &reply).await;
    format!("RESERVE: {reserved}, CONNECT: {connected}")
}
