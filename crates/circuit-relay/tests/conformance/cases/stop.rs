//! STOP: the content of the request, and the effect of each response of the target.

use std::collections::HashSet;

use circuit_relay::wire::{Status, StopMessage, StopType};
use futures::AsyncWriteExt;

use crate::{
    case::Case,
    harness::{
        answer::{self, list},
        circuit::{self, connect_status, stop_status},
        client::{Client, Connection, connect, frame, read_to_end, write},
        net::Net,
        server::Server,
    },
};

const ANY_FAILURE: &str = "The source receives the same status for every failure of the target. The other \
 statuses refer to the request of the source.";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "the content of STOP",
            stop_content,
            "CONNECT from the source, 3600 s, 100000000 bytes",
        ),
        Case::new(
            "the target refuses STOP, with each status",
            target_refuses,
            "CONNECTION_FAILED each time",
        )
        .differs(
            "UNEXPECTED_MESSAGE, RESOURCE_LIMIT_EXCEEDED, PERMISSION_DENIED, UNEXPECTED_MESSAGE, \
             UNEXPECTED_MESSAGE, UNEXPECTED_MESSAGE, UNEXPECTED_MESSAGE",
            ANY_FAILURE,
        ),
        Case::new(
            "the target does not support the stop protocol",
            target_without_stop_protocol,
            "CONNECTION_FAILED",
        ),
        Case::new(
            "the target answers STOP with an undecodable message",
            undecodable_response,
            "CONNECTION_FAILED",
        )
        .differs("MALFORMED_MESSAGE", ANY_FAILURE),
        Case::new(
            "the target answers STOP with a request",
            request,
            "CONNECTION_FAILED",
        )
        .differs("UNEXPECTED_MESSAGE", ANY_FAILURE),
        Case::new(
            "the target closes the stop stream without an answer",
            closed_without_response,
            "CONNECTION_FAILED",
        ),
        Case::new(
            "the target does not answer STOP",
            no_response,
            "CONNECTION_FAILED",
        )
        .on(Net::SLOW)
        .differs(
            "no answer in time",
            "STOP has a deadline of 8 s. Clients wait for 10 s, so they receive the failure in \
             time.",
        ),
        Case::new(
            "the target's connection ends before it answers STOP",
            target_disconnects,
            "CONNECTION_FAILED",
        )
        .differs(
            "another status, or none",
            "Every request receives the status of its actual cause.",
        ),
        Case::new(
            "the source resets its stream before the target answers STOP, then CONNECT when one \
             circuit is allowed",
            source_gives_up,
            "OK",
        )
        .limits(|limits| limits.circuits = Some(1))
        .on(&[Net::Quic])
        .differs(
            "RESOURCE_LIMIT_EXCEEDED",
            "The circuit is released as soon as its source has gone, not when the target \
             answers.",
        ),
    ]
    .into_iter()
    .chain(several_connections())
    .collect()
}

/// Targets with more than one connection.
fn several_connections() -> Vec<Case> {
    vec![
        Case::new(
            "the target answers STOP on the other one of its two connections only",
            second_connection,
            "OK",
        )
        .on(Net::SLOW)
        .differs(
            "no answer in time",
            "A connection that is dead but not detected as such does not prevent the circuit if \
             the target has another one.",
        ),
        Case::new(
            "three of the target's connections do not answer STOP, the fourth does",
            fourth_connection,
            "OK",
        )
        .on(Net::RESETS)
        .differs(
            "no answer in time",
            "A connection that is dead but not detected as such does not prevent the circuit if \
             the target has another one.",
        ),
        Case::new(
            "STOP is answered with OK on the second connection, then also on the first one",
            late_ok,
            "OK, and the first stream ends with Error",
        )
        .on(Net::RESETS)
        .differs(
            "no second STOP",
            "The first OK wins: no data is forwarded on any other stream.",
        ),
        Case::new(
            "the target refuses STOP on the second of its connections",
            refusal_ends,
            "CONNECTION_FAILED, no further STOP",
        )
        .on(Net::RESETS)
        .differs(
            "no second STOP",
            "A refusal is the decision of the target, so it ends all attempts.",
        ),
    ]
}

/// A reserved target with its connection, and a source with its connection.
async fn pair(relay: &Server) -> (Client, Connection, Client, Connection) {
    let (target, reserved) = Client::reserved(relay).await;
    let (client, source) = Client::connected(relay).await;
    (target, reserved, client, source)
}

async fn stop_content(relay: Server) -> String {
    let (mut target, _reserved, client, source) = pair(&relay).await;
    let stop = circuit::open(&source, &mut target).await.unwrap().stop;
    assert_eq!(stop.kind, Some(StopType::Connect.into()));
    let peer = stop.peer.and_then(|peer| peer.id);
    let from = if peer == Some(client.peer_id.to_bytes()) {
        "the source".to_owned()
    } else {
        format!("{peer:?}")
    };
    format!("CONNECT from {from}, {}", answer::limit(stop.limit))
}

async fn target_refuses(relay: Server) -> String {
    let (mut target, _reserved, _client, source) = pair(&relay).await;
    let mut answers = Vec::new();
    for status in [
        Status::ReservationRefused,
        Status::ResourceLimitExceeded,
        Status::PermissionDenied,
        Status::ConnectionFailed,
        Status::NoReservation,
        Status::MalformedMessage,
        Status::UnexpectedMessage,
    ] {
        answers.push(connect_status(&source, &mut target, &stop_status(status)).await);
    }
    if answers
        .iter()
        .all(|answer| answer.is(Status::ConnectionFailed))
    {
        return "CONNECTION_FAILED each time".into();
    }
    list(answers)
}

async fn target_without_stop_protocol(relay: Server) -> String {
    let target = Client::without_stop(&relay);
    target.dial(&relay).await.reserve().await.granted();
    let (_client, source) = Client::connected(&relay).await;
    source.connect(target.peer_id).await.to_string()
}

async fn undecodable_response(relay: Server) -> String {
    let (mut target, _reserved, _client, source) = pair(&relay).await;
    connect_status(&source, &mut target, b"\x04\xff\xff\xff\xff")
        .await
        .to_string()
}

async fn request(relay: Server) -> String {
    let (mut target, _reserved, _client, source) = pair(&relay).await;
    let connect = frame(&StopMessage {
        kind: Some(StopType::Connect.into()),
        ..StopMessage::default()
    });
    connect_status(&source, &mut target, &connect)
        .await
        .to_string()
}

async fn closed_without_response(relay: Server) -> String {
    let (mut target, _reserved, _client, source) = pair(&relay).await;
    let ask = source.connect(target.peer_id);
    let close = async {
        let (_, mut stream) = target.stop().await;
        stream.close().await.unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(ask, close);
    answer.to_string()
}

async fn no_response(relay: Server) -> String {
    let (mut target, _reserved, _client, source) = pair(&relay).await;
    let peer_id = target.peer_id;
    let (answer, _stream) = tokio::join!(source.connect(peer_id), target.stop());
    answer.to_string()
}

async fn target_disconnects(relay: Server) -> String {
    let (mut target, reserved, _client, source) = pair(&relay).await;
    let peer_id = target.peer_id;
    let vanish = async {
        let (_, stream) = target.stop().await;
        target.disconnect(&reserved).await;
        drop(stream);
    };
    let (answer, ()) = tokio::join!(source.connect(peer_id), vanish);
    if answer.is(Status::ConnectionFailed) {
        "CONNECTION_FAILED".into()
    } else {
        "another status, or none".into()
    }
}

async fn source_gives_up(relay: Server) -> String {
    let (mut target, _reserved, _client, source) = pair(&relay).await;
    let mut stream = source.open().await.unwrap();
    write(&mut stream, &connect(target.peer_id)).await;
    let _silent = target.stop().await;
    drop(stream);
    let next = circuit::open_until_free(&source, &mut target).await;
    next.to_string()
}

async fn second_connection(relay: Server) -> String {
    let (mut target, _reserved, _client, source) = pair(&relay).await;
    let other = target.dial(&relay).await;
    other.wait_until_served().await;
    let peer_id = target.peer_id;
    let answer = async {
        let (first, no_response) = target.stop().await;
        let mut second = target.stop_in_time().await;
        if let Some((over, stream)) = &mut second {
            assert_ne!(*over, first);
            write(stream, &stop_status(Status::Ok)).await;
        }
        (no_response, second)
    };
    let (status, _streams) = tokio::join!(source.connect(peer_id), answer);
    status.to_string()
}

/// A reserved target with this many connections, and a source.
async fn pair_with_connections(relay: &Server, connections: usize) -> (Client, Client, Connection) {
    let (target, _) = Client::reserved(relay).await;
    for _ in 1..connections {
        target.dial(relay).await.wait_until_served().await;
    }
    let (client, source) = Client::connected(relay).await;
    (target, client, source)
}

async fn fourth_connection(relay: Server) -> String {
    let (mut target, _client, source) = pair_with_connections(&relay, 4).await;
    let peer_id = target.peer_id;
    let answer = async {
        let mut streams = Vec::new();
        let mut over = HashSet::new();
        for _ in 0..4 {
            let Some((connection, stream)) = target.stop_in_time().await else {
                break;
            };
            assert!(over.insert(connection), "a connection is tried twice");
            streams.push(stream);
        }
        if let [_, _, _, fourth] = &mut streams[..] {
            write(fourth, &stop_status(Status::Ok)).await;
        }
        streams
    };
    let (status, _streams) = tokio::join!(source.connect(peer_id), answer);
    status.to_string()
}

async fn late_ok(relay: Server) -> String {
    let (mut target, _client, source) = pair_with_connections(&relay, 2).await;
    let request = connect(target.peer_id);
    let answer = async {
        let (_, first) = target.stop().await;
        let mut second = target.stop_in_time().await;
        if let Some((_, stream)) = &mut second {
            write(stream, &stop_status(Status::Ok)).await;
        }
        (first, second)
    };
    let ((answer, stream), (mut first, second)) = tokio::join!(source.request(&request), answer);
    let (Some(mut stream), Some(_second)) = (stream, second) else {
        return "no second STOP".into();
    };
    write(&mut first, &stop_status(Status::Ok)).await;
    write(&mut stream, b"not for the first stream").await;
    let (received, end) = read_to_end(&mut first).await;
    let forwarded = received.windows(3).any(|bytes| bytes == b"not");
    assert!(!forwarded, "a byte is forwarded on the first stream");
    format!("{answer}, and the first stream ends with {end:?}")
}

async fn refusal_ends(relay: Server) -> String {
    let (mut target, _client, source) = pair_with_connections(&relay, 3).await;
    let peer_id = target.peer_id;
    let answer = async {
        let first = target.stop().await;
        let mut second = target.stop_in_time().await;
        if let Some((_, stream)) = &mut second {
            write(stream, &stop_status(Status::PermissionDenied)).await;
        }
        (first, second)
    };
    let (status, (_first, second)) = tokio::join!(source.connect(peer_id), answer);
    match (second, target.stop_in_time().await) {
        (None, _) => "no second STOP".into(),
        (Some(_), None) => format!("{status}, no further STOP"),
        (Some(_), Some(_)) => format!("{status}, and another STOP"),
    }
}
