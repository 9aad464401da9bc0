//! Requests that are none. Each is followed by one that is, on the same connection.

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
            after(relay, b"\x05\xff\xff\xff\xff\xff".to_vec())
        }),
        malformed("a message without a type", |relay| {
            after(relay, frame(&HopMessage::default()))
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
            after(relay, frame(&message))
        }),
        malformed("CONNECT without a peer", |relay| {
            after(relay, frame(&connect_to(None)))
        }),
        malformed("CONNECT to an invalid peer id", |relay| {
            after(relay, frame(&connect_to(Some(b"nobody".to_vec()))))
        }),
        malformed("a message that is longer than 4096 bytes", |relay| {
            after(relay, frame(&padded(MAX_MESSAGE_BYTES + 1)))
        }),
        Case::new("a message of exactly 4096 bytes", longest, "OK, then OK"),
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
        malformed("half a message, then nothing", half)
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

/// The answer to `bytes`, then the answer to a RESERVE.
async fn after(relay: Server, bytes: Vec<u8>) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    let (answer, _stream) = connection.request(&bytes).await;
    then(&answer, &connection.reserve().await)
}

fn then(answer: &Answer, next: &Answer) -> String {
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

/// A RESERVE of this length.
fn padded(length: usize) -> HopMessage {
    // The kind takes two bytes, the two fields around the padding three each.
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

async fn longest(relay: Server) -> String {
    after(relay, frame(&padded(MAX_MESSAGE_BYTES))).await
}

async fn status(relay: Server) -> String {
    after(relay, frame(&wire::status(Status::Ok))).await
}

async fn unknown_fields(relay: Server) -> String {
    // RESERVE, field 15 with a number, field 100 with three bytes.
    after(relay, b"\x0a\x08\x00\x78\x2a\xa2\x06\x03abc".to_vec()).await
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
    then(
        &Answer::read(&mut stream).await,
        &connection.reserve().await,
    )
}

async fn half(relay: Server) -> String {
    let request = reserve();
    after(relay, request[..request.len() - 1].to_vec()).await
}
