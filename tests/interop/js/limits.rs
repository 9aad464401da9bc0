//! Circuit limits as js-libp2p observes them.

use serde_json::{Value, json};
use test_support::{js, process::Relay};

use super::{MIB, Pair, whole};

/// A limit of 256 KiB for each direction.
const DATA_LIMIT: (&str, &str) = ("RELAY_MAX_CIRCUIT_BYTES", "256KiB");

#[tokio::test]
async fn circuit_has_the_announced_limits() {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[DATA_LIMIT, ("RELAY_MAX_CIRCUIT_DURATION", "10m")]).await;
    let mut pair = Pair::start(node, &relay, "tcp", "noise").await;
    assert_eq!(pair.echo(1000).await, whole(1000));

    let stream = pair.listener.event("stream accepted").await;
    for limits in [&pair.connection["limits"], &stream["limits"]] {
        // js-libp2p reports the remaining bytes of the announced limit.
        let bytes = limits["bytes"].as_u64().unwrap();
        assert!((240 * 1024..=256 * 1024).contains(&bytes), "{limits}");
        let seconds = limits["seconds"].as_u64().unwrap();
        assert!((540..=600).contains(&seconds), "{limits}");
    }
}

#[tokio::test]
async fn a_circuit_without_limits_is_not_limited() {
    let Some(node) = js::node() else { return };
    let unlimited = [
        ("RELAY_MAX_CIRCUIT_BYTES", "0"),
        ("RELAY_MAX_CIRCUIT_DURATION", "0"),
    ];
    let relay = Relay::start(&unlimited).await;
    let mut pair = Pair::start(node, &relay, "tcp", "noise").await;
    assert_eq!(pair.echo(MIB).await, whole(MIB));
    assert_eq!(pair.connection["limits"], Value::Null);
    assert_eq!(
        pair.listener.event("stream accepted").await["limits"],
        Value::Null
    );
}

/// The limit applies to each direction: an echo of 200 KiB fits into 256 KiB.
#[tokio::test]
async fn data_limit_applies_to_each_direction() {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[DATA_LIMIT]).await;
    let mut pair = Pair::start(node, &relay, "tcp", "noise").await;
    assert_eq!(pair.echo(200 * 1024).await, whole(200 * 1024));
}

/// Asserts that a cut circuit looks complete neither to the applications nor to the clients, which would
/// otherwise interpret the end of a circuit as a regular close by the peer.
///
/// Returns the number of bytes that each application received.
async fn assert_cut(mut pair: Pair, bytes: u64) -> [u64; 2] {
    let sent = pair.echo(bytes).await;
    assert_eq!(
        (&sent["end"], &sent["matches"]),
        (&json!("cut"), &json!(true)),
        "{sent}"
    );
    let received = pair.listener.event("stream ended").await;
    assert_eq!(received["end"], "cut", "{received}");
    for peer in [&mut pair.dialer, &mut pair.listener] {
        let circuit = peer.event("circuit closed").await;
        assert_eq!(circuit["end"], "cut", "{circuit}");
    }
    [sent, received].map(|end| end["received"].as_u64().unwrap())
}

async fn the_data_limit_cuts(transport: &str) {
    let Some(node) = js::node() else { return };
    let mut relay = Relay::start(&[DATA_LIMIT]).await;
    let pair = Pair::start(node, &relay, transport, "noise").await;
    for received in assert_cut(pair, MIB).await {
        assert!(received <= 256 * 1024, "{received} bytes beyond the limit");
    }
    assert_eq!(relay.event("circuit closed").await["reason"], "max_bytes");
}

#[tokio::test]
async fn the_data_limit_cuts_over_tcp() {
    the_data_limit_cuts("tcp").await;
}

#[tokio::test]
async fn the_data_limit_cuts_over_quic() {
    the_data_limit_cuts("quic").await;
}

#[tokio::test]
async fn the_data_limit_cuts_over_websocket() {
    the_data_limit_cuts("websocket").await;
}

/// The circuit forwards data during its whole lifetime.
async fn the_duration_limit_cuts(transport: &str) {
    let Some(node) = js::node() else { return };
    let variables = [
        ("RELAY_MAX_CIRCUIT_BYTES", "0"),
        ("RELAY_MAX_CIRCUIT_DURATION", "3s"),
    ];
    let mut relay = Relay::start(&variables).await;
    let pair = Pair::start(node, &relay, transport, "noise").await;
    for received in assert_cut(pair, 1 << 40).await {
        assert!(
            received > MIB,
            "{received} bytes, though there was no other limit"
        );
    }
    assert_eq!(
        relay.event("circuit closed").await["reason"],
        "max_duration"
    );
}

#[tokio::test]
async fn the_duration_limit_cuts_over_tcp() {
    the_duration_limit_cuts("tcp").await;
}

#[tokio::test]
async fn the_duration_limit_cuts_over_quic() {
    the_duration_limit_cuts("quic").await;
}
