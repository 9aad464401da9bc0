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
            |relay| between(relay, Keypair::generate_secp256k1),
            BOTH,
        ),
        Case::new(
            "RESERVE and CONNECT by peers with ECDSA keys",
            |relay| between(relay, Keypair::generate_ecdsa),
            BOTH,
        ),
        Case::new(
            "RESERVE by a peer with an RSA key, and CONNECT to it",
            |relay| async move { to(relay, &rsa_2048(), &Keypair::generate_ed25519()).await },
            BOTH,
        ),
        Case::new(
            "CONNECT by a peer with an RSA key",
            |relay| async move { to(relay, &Keypair::generate_ed25519(), &rsa_2048()).await },
            BOTH,
        ),
    ]
}

async fn between(relay: Server, key: fn() -> Keypair) -> String {
    to(relay, &key(), &key()).await
}

/// A peer with the key `target` reserves, and one with the key `source` connects to it.
async fn to(relay: Server, target: &Keypair, source: &Keypair) -> String {
    let mut target = Client::with_key(&relay, target);
    let reserved = target.dial(&relay).await.reserve().await;
    let source = Client::with_key(&relay, source);
    let connection = source.dial(&relay).await;
    let reply = circuit::stop_status(Status::Ok);
    let connected = circuit::told(&connection, &mut target, &reply).await;
    format!("RESERVE: {reserved}, CONNECT: {connected}")
}
