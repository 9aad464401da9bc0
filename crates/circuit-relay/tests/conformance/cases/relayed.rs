//! Requests over a relayed connection, that is, a circuit of another relay.

use libp2p::PeerId;

use crate::{
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
            "This is the answer of the specification to a request over a relayed connection: \
             the client need not retry.",
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
