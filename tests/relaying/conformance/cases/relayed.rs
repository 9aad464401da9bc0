//! Requests over a connection that is itself a circuit of another relay.

use libp2p::PeerId;

use crate::conformance::{
    case::Case,
    harness::{answer::list, client::Client, server::Server},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "RESERVE and CONNECT over a relayed connection",
            over_circuit,
            "PERMISSION_DENIED, PERMISSION_DENIED",
        )
        .differs(
            "not offered, not offered",
            "The specification's answer to a request over a relayed connection is \
             PERMISSION_DENIED: the client learns that it need not try again.",
        ),
    ]
}

async fn over_circuit(relay: Server) -> String {
    let hidden = relay.start_behind().await;
    let client = Client::through_relays(&relay);
    let connection = client.dial(&hidden).await;
    list([
        connection.reserve().await,
        connection.connect(PeerId::random()).await,
    ])
}
