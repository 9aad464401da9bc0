//! Lifetime of a reservation: renewal, connections that share it, disconnection and expiry.

use circuit_relay::wire::Status;
use futures::AsyncWriteExt;
use tokio::time::timeout;

use super::reserve::SHORT_TTL;
use crate::{
    case::Case,
    harness::{
        PATIENCE,
        answer::list,
        circuit::{self, stop_status},
        client::{Client, Connection, End, connect, read_to_end, write},
        server::Server,
    },
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("renewal on the same connection", renew, "OK, OK"),
        Case::new("RESERVE again after a reconnect", reconnect, "OK, OK"),
        Case::new("renewal when all reservations are in use", renew, "OK, OK")
            .limits(|limits| limits.reservations = Some(1))
            .differs(
                "OK, RESOURCE_LIMIT_EXCEEDED",
                "A renewal uses no further reservation, so it is never refused for lack of \
             capacity: a full relay keeps its reserved peers.",
            ),
        Case::new(
            "RESERVE on a second connection when all reservations are in use",
            renew_on_second_connection,
            "OK, OK",
        )
        .limits(|limits| limits.reservations = Some(1))
        .differs(
            "OK, RESOURCE_LIMIT_EXCEEDED",
            "The reservation belongs to the peer, so a client that reconnects before its old \
             connection is detected as dead keeps it.",
        ),
        Case::new(
            "RESERVE on each of five connections, of which three may hold the reservation",
            five_connections,
            "OK, OK, OK, OK, OK, then STOP over the newest",
        )
        .differs(
            "OK, OK, OK, OK, RESOURCE_LIMIT_EXCEEDED, then STOP over another",
            "The newest connections hold the reservation and the oldest one of the same peer \
             gives way, so the dead connections of a client never lock it out.",
        ),
        Case::new(
            "CONNECT to a peer whose reserving connection was lost, but not its other one",
            loses_reserving_connection,
            "OK, over the other connection",
        )
        .differs(
            "NO_RESERVATION",
            "A reservation lasts as long as any direct connection of its peer is open.",
        ),
        Case::new(
            "CONNECT to a peer whose last connection was lost",
            last_connection,
            "NO_RESERVATION",
        ),
        Case::new(
            "CONNECT to a peer whose reservation has expired",
            expires,
            "NO_RESERVATION",
        )
        .limits(|limits| limits.reservation_ttl = SHORT_TTL),
        Case::new(
            "a circuit whose target's reservation has expired",
            circuit_outlives_reservation,
            "it continues",
        )
        .limits(|limits| limits.reservation_ttl = SHORT_TTL),
        Case::new("RESERVE after an expiry", reserve_after_expiry, "OK")
            .limits(|limits| limits.reservation_ttl = SHORT_TTL),
    ]
}

async fn renew(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    list([connection.reserve().await, connection.reserve().await])
}

async fn reconnect(relay: Server) -> String {
    let (client, old) = Client::connected(&relay).await;
    let first = old.reserve().await;
    client.disconnect(&old).await;
    let new = client.dial(&relay).await;
    list([first, new.reserve().await])
}

async fn renew_on_second_connection(relay: Server) -> String {
    let (client, one) = Client::connected(&relay).await;
    let other = client.dial(&relay).await;
    list([one.reserve().await, other.reserve().await])
}

async fn five_connections(relay: Server) -> String {
    let mut target = Client::new(&relay);
    let mut connections = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..5 {
        let connection = target.dial(&relay).await;
        answers.push(connection.reserve().await.to_string());
        connections.push(connection.id);
    }
    let (_source, source) = Client::connected(&relay).await;
    let over = circuit::open(&source, &mut target).await.unwrap().over;
    answers.push(if over == connections[4] {
        "then STOP over the newest".into()
    } else {
        "then STOP over another".into()
    });
    list(answers)
}

async fn loses_reserving_connection(relay: Server) -> String {
    let (mut target, reserving) = Client::reserved(&relay).await;
    let other = target.dial(&relay).await;
    other.wait_until_served().await;
    let (_source, source) = Client::connected(&relay).await;
    target.disconnect(&reserving).await;
    match circuit::open(&source, &mut target).await {
        Ok(circuit) if circuit.over == other.id => "OK, over the other connection".into(),
        Ok(circuit) => format!("OK, over {:?}", circuit.over),
        Err(denied) => denied.to_string(),
    }
}

async fn last_connection(relay: Server) -> String {
    let (target, reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    target.disconnect(&reserving).await;
    let answer = source.connect_until(target.peer_id, Status::NoReservation);
    answer.await.to_string()
}

/// Sends CONNECT, which the target refuses, until the reservation has expired.
async fn wait_for_expiry(source: &Connection, target: &mut Client) {
    let request = connect(target.peer_id);
    let refusal = stop_status(Status::PermissionDenied);
    let expiry = async {
        loop {
            let answer = circuit::open_with_reply(source, target, &request, &refusal).await;
            if answer.is_err_and(|denied| denied.is(Status::NoReservation)) {
                return;
            }
            tokio::time::sleep(SHORT_TTL / 20).await;
        }
    };
    timeout(PATIENCE, expiry).await.expect("an expiry in time");
}

async fn expires(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    wait_for_expiry(&source, &mut target).await;
    "NO_RESERVATION".into()
}

async fn circuit_outlives_reservation(relay: Server) -> String {
    let (_source, source) = Client::connected(&relay).await;
    // On a slow machine, such a short reservation may expire before the circuit is open. Retries with
    // another target.
    let (mut target, mut circuit) = loop {
        let (mut target, _reserving) = Client::reserved(&relay).await;
        match circuit::open(&source, &mut target).await {
            Ok(circuit) => break (target, circuit),
            Err(denied) => assert!(denied.is(Status::NoReservation), "{denied}"),
        }
    };
    wait_for_expiry(&source, &mut target).await;
    write(&mut circuit.source, b"still there?").await;
    circuit.source.close().await.unwrap();
    match read_to_end(&mut circuit.target).await {
        (received, End::Eof) if received == b"still there?" => "it continues".into(),
        other => format!("{other:?}"),
    }
}

async fn reserve_after_expiry(relay: Server) -> String {
    let (mut target, reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    wait_for_expiry(&source, &mut target).await;
    reserving.reserve().await.to_string()
}
