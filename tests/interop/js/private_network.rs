//! js-libp2p in a private network.

use serde_json::json;
use test_support::{
    js::{self, Peer},
    process::Relay,
};

use crate::js::{MIB, address, through, whole};

const KEY: &str = "/key/swarm/psk/1.0.0/\n/base16/\n\
                   0707070707070707070707070707070707070707070707070707070707070707\n";

async fn js_reaches_js(transport: &str, listen: &str) {
    let Some(node) = js::node() else { return };
    let variables = [("RELAY_SWARM_KEY", KEY), ("RELAY_LISTEN_ADDRESSES", listen)];
    let mut relay = Relay::start(&variables).await;
    let address = address(&relay, transport);
    let options = json!({ "transport": transport, "swarmKey": KEY });
    let mut listener = Peer::start_with(node, &options).await;
    listener.ask("reserve", json!({ "relay": address })).await;
    let mut dialer = Peer::start_with(node, &options).await;
    let path = through(&address, &listener.id);
    dialer.ask("dial", json!({ "address": path })).await;
    let echoed = json!({ "address": path, "bytes": MIB });
    assert_eq!(dialer.ask("echo", echoed).await, whole(MIB));

    let mut without_key = Peer::start(node, transport, "noise").await;
    let outcome = without_key
        .call("dial", json!({ "address": address }))
        .await;
    assert!(outcome.is_err(), "{outcome:?}");
    let refused = relay.event("connection refused").await;
    assert_eq!(refused["reason"], "swarm_key", "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp() {
    js_reaches_js("tcp", "/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_websocket() {
    js_reaches_js("websocket", "/ip4/127.0.0.1/tcp/0/ws").await;
}
