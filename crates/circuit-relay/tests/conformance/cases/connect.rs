//! CONNECT: valid and invalid targets, and circuit limits.

use circuit_relay::CircuitLimit;
use libp2p::PeerId;

use crate::{
    case::Case,
    harness::{
        answer::{self, Answer, list},
        circuit::{self, Circuit},
        client::Client,
        server::Server,
    },
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("CONNECT", connect, "OK"),
        Case::new(
            "CONNECT to a peer that is not connected",
            not_connected,
            "NO_RESERVATION",
        ),
        Case::new(
            "CONNECT to a peer without a reservation",
            no_reservation,
            "NO_RESERVATION",
        ),
        Case::new(
            "CONNECT from a peer to itself",
            to_self,
            "PERMISSION_DENIED",
        )
        .differs(
            "OK",
            "A circuit from a peer to itself has no use and costs two streams.",
        ),
        Case::new(
            "CONNECT when the relay has its maximum of circuits",
            relay_full,
            "OK, RESOURCE_LIMIT_EXCEEDED",
        )
        .limits(|limits| limits.circuits = Some(1)),
        Case::new(
            "CONNECT when the source has its maximum of circuits",
            source_full,
            "OK, RESOURCE_LIMIT_EXCEEDED",
        )
        .limits(|limits| limits.circuits_per_source = Some(1))
        .differs("OK, OK", "A limit of N circuits allows exactly N."),
        Case::new(
            "CONNECT when the target has its maximum of circuits",
            target_full,
            "OK, RESOURCE_LIMIT_EXCEEDED",
        )
        .limits(|limits| limits.circuits_per_target = Some(1))
        .differs(
            "OK, OK",
            "Targets have a separate limit, so sources cannot overload a target.",
        ),
        Case::new(
            "CONNECT when the target has its maximum of circuits, and one is unused",
            unused_evicted,
            "OK, OK",
        )
        .limits(|limits| limits.circuits_per_target = Some(1)),
        Case::new("CONNECT after a circuit has ended", slot_freed, "OK, OK")
            .limits(|limits| limits.circuits = Some(1)),
        Case::new(
            "the limit in the answer to CONNECT",
            limit,
            "3600 s, 100000000 bytes",
        ),
        Case::new(
            "the limits in RESERVE, CONNECT and STOP when circuits are unlimited",
            unlimited,
            "none",
        )
        .limits(|limits| limits.circuit = CircuitLimit::default())
        .differs(
            "one each time",
            "Clients treat a connection as limited, and use it for fewer protocols, if a \
             `limit` is present. Without limits it is omitted.",
        ),
    ]
}

/// The responses to several CONNECT attempts. Their circuits stay open meanwhile.
fn answers<const N: usize>(attempts: [Result<Circuit, Answer>; N]) -> String {
    list(attempts.map(|attempt| match attempt {
        Ok(circuit) => circuit.answer.to_string(),
        Err(denied) => denied.to_string(),
    }))
}

async fn connect(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    answers([circuit::open(&source, &mut target).await])
}

async fn not_connected(relay: Server) -> String {
    let (_source, source) = Client::connected(&relay).await;
    source.connect(PeerId::random()).await.to_string()
}

async fn no_reservation(relay: Server) -> String {
    let (target, _connection) = Client::connected(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    source.connect(target.peer_id).await.to_string()
}

async fn to_self(relay: Server) -> String {
    let (mut client, connection) = Client::reserved(&relay).await;
    answers([circuit::open(&connection, &mut client).await])
}

async fn relay_full(relay: Server) -> String {
    let (mut one, _reserving) = Client::reserved(&relay).await;
    let (mut other, _reserving) = Client::reserved(&relay).await;
    let (_source, first) = Client::connected(&relay).await;
    let (_source, second) = Client::connected(&relay).await;
    answers([
        circuit::open(&first, &mut one).await,
        circuit::open(&second, &mut other).await,
    ])
}

async fn source_full(relay: Server) -> String {
    let (mut one, _reserving) = Client::reserved(&relay).await;
    let (mut other, _reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    answers([
        circuit::open(&source, &mut one).await,
        circuit::open(&source, &mut other).await,
    ])
}

async fn target_full(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, first) = Client::connected(&relay).await;
    let (_source, second) = Client::connected(&relay).await;
    let mut used = circuit::open(&first, &mut target).await;
    if let Ok(circuit) = &mut used {
        circuit::send_first_byte(circuit).await;
    }
    answers([used, circuit::open(&second, &mut target).await])
}

async fn unused_evicted(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, first) = Client::connected(&relay).await;
    let (_source, second) = Client::connected(&relay).await;
    answers([
        circuit::open(&first, &mut target).await,
        circuit::open(&second, &mut target).await,
    ])
}

async fn slot_freed(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    let circuit = circuit::open(&source, &mut target).await.unwrap();
    let first = circuit.answer.clone();
    drop(circuit);
    list([first, circuit::open_until_free(&source, &mut target).await])
}

async fn limit(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    let circuit = circuit::open(&source, &mut target).await.unwrap();
    answer::limit(circuit.answer.granted().limit)
}

async fn unlimited(relay: Server) -> String {
    let (mut target, reserving) = Client::connected(&relay).await;
    let reserve = reserving.reserve().await.granted();
    let (_source, source) = Client::connected(&relay).await;
    let circuit = circuit::open(&source, &mut target).await.unwrap();
    let connect = circuit.answer.granted();
    match [reserve.limit, connect.limit, circuit.stop.limit] {
        [None, None, None] => "none".into(),
        [Some(_), Some(_), Some(_)] => "one each time".into(),
        some => format!("{some:?}"),
    }
}
