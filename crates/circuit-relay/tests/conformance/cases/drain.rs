//! Requests on established connections while the relay drains.

use std::time::Duration;

use crate::{
    case::Case,
    harness::{circuit, client::Client, server::Server},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "RESERVE while the relay drains",
            reserve,
            "RESERVATION_REFUSED",
        )
        .differs(
            "OK",
            "libp2p-relay has no drain. A reservation that ends with the relay serves nobody.",
        ),
        Case::new("renewal while the relay drains", renew, "OK"),
        Case::new(
            "the limits of a circuit that is opened 100 s before the end of a drain",
            limits,
            "both peers get one that ends before the drain",
        )
        .differs("3600 s", "No circuit is cut that obeys its limit."),
        Case::new(
            "CONNECT 15 s before the end of a drain",
            connect_shortly_before_the_end,
            "RESOURCE_LIMIT_EXCEEDED",
        )
        .differs(
            "OK",
            "A circuit would get less than 10 s: the source tries another relay.",
        ),
    ]
}

async fn reserve(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    relay.drain(Duration::from_secs(100));
    connection.reserve().await.to_string()
}

async fn renew(relay: Server) -> String {
    let (_client, reserving) = Client::reserved(&relay).await;
    relay.drain(Duration::from_secs(100));
    reserving.reserve().await.to_string()
}

async fn limits(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    relay.drain(Duration::from_secs(100));
    let circuit = circuit::open(&source, &mut target).await.unwrap();
    let limits = [circuit.answer.granted().limit, circuit.stop.limit];
    match limits.map(|limit| limit.unwrap().duration.unwrap()) {
        [source @ 60..=91, target] if source == target => {
            "both peers get one that ends before the drain".into()
        }
        [source, target] if source == target => format!("{source} s"),
        [source, target] => format!("{source} s and {target} s"),
    }
}

async fn connect_shortly_before_the_end(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    relay.drain(Duration::from_secs(15));
    match circuit::open(&source, &mut target).await {
        Ok(circuit) => circuit.answer.to_string(),
        Err(denied) => denied.to_string(),
    }
}
