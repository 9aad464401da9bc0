//! Malformed and incomplete requests, each followed by a valid one on the same connection.

use circuit_relay::wire::{self, HopMessage, HopType, MAX_MESSAGE_BYTES, Peer, Status};
use futures::AsyncWriteExt;
use libp2p::PeerId;

use crate::{
    case::Case,
    harness::{
        answer::Answer,
        client::{Client, frame, reserve, write},
        net::Net,
        server::Server,
    },
};

const A_STATUS: &str = "Every request receives a status, so the client can identify the error.";

pub fn cases() -> Vec<Case> {
    vec![
        malformed("undecodable bytes instead of a message", |relay| {
            status_and_next(relay, b"\x05\xff\xff\xff\xff\xff".to_vec())
        }),
        malformed("a message without a type", |relay| {
            status_and_next(relay, frame(&HopMessage::default()))
        })
        .differs(
            "OK, then OK",
            "The type is required; a message without one is not treated as RESERVE.",
        ),
        malformed("a message of an unknown type", |relay| {
            let message = HopMessage {
                kind: Some(9),
                ..HopMessage::default()
            };
            status_and_next(relay, frame(&message))
        }),
        malformed("CONNECT without a peer", |relay| {
            status_and_next(relay, frame(&connect_to(None)))
        }),
        malformed("CONNECT to an invalid peer id", |relay| {
            status_and_next(relay, frame(&connect_to(Some(b"nobody".to_vec()))))
        }),
        malformed("a message that is longer than 4096 bytes", |relay| {
            status_and_next(relay, frame(&padded(MAX_MESSAGE_BYTES + 1)))
        }),
        Case::new("a message of exactly 4096 bytes", max_length, "OK, then OK"),
        Case::new("STATUS as a request", status, "UNEXPECTED_MESSAGE, then OK")
            .differs("no status, then OK", A_STATUS),
        Case::new(
            "a request with unknown fields",
            unknown_fields,
            "OK, then OK",
        ),
        Case::new(
            "half a message, then the end of the stream",
            cut_short,
            "no status, then OK",
        ),
        malformed("half a message, then nothing", incomplete)
            .on(Net::SLOW)
            .differs(
                "no answer in time, then OK",
                "A request must arrive within 10 s.",
            ),
    ]
}

fn malformed<F>(name: &'static str, run: fn(Server) -> F) -> Case
where
    F: Future<Output = String> + Send + 'static,
{
    Case::new(name, run, "MALFORMED_MESSAGE, then OK").differs("no status, then OK", A_STATUS)
}

/// The response to `bytes`, then the response to a RESERVE.
async fn status_and_next(relay: Server, bytes: Vec<u8>) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    let (answer, _stream) = connection.request(&bytes).await;
    list_both(&answer, &connection.reserve().await)
}

fn list_both(answer: &Answer, next: &Answer) -> String {
    format!("{answer}, then {next}")
}

fn connect_to(id: Option<Vec<u8>>) -> HopMessage {
    HopMessage {
        kind: Some(HopType::Connect.into()),
        peer: id.map(|id| Peer {
            id: Some(id),
            addrs: Vec::new(),
        }),
        ..HopMessage::default()
    }
}

/// A RESERVE message of this length.
fn padded(length: usize) -> HopMessage {
    // The type takes two bytes; tags and lengths of the two fields around the padding take three each.
    let message = HopMessage {
        kind: Some(HopType::Reserve.into()),
        peer: Some(Peer {
            id: None,
            addrs: vec![vec![0; length - 8]],
        }),
        ..HopMessage::default()
    };
    assert_eq!(prost::Message::encoded_len(&message), length);
    message
}

async fn max_length(relay: Server) -> String {
    status_and_next(relay, frame(&padded(MAX_MESSAGE_BYTES))).await
}

async fn status(relay: Server) -> String {
    status_and_next(relay, frame(&wire::status(Status::Ok))).await
}

async fn unknown_fields(relay: Server) -> String {
    // RESERVE, then field 15 as a varint, and field 100 as three bytes.
    status_and_next(relay, b"\x0a\x08\x00\x78\x2a\xa2\x06\x03abc".to_vec()).await
}

async fn cut_short(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    let mut stream = connection.open().await.unwrap();
    write(
        &mut stream,
        &frame(&connect_to(Some(PeerId::random().to_bytes())))[..7],
    )
    .await;
    stream.close().await.unwrap();
    list_both(
        &Answer::read(&mut stream).await,
        &connection.reserve().await,
    )
}

async fn incomplete(relay: Server) -> String {
    let request = reserve();
    status_and_next(relay, request[..request.len() - 1].to_vec()).await
}
