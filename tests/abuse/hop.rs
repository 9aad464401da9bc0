//! Malformed and incomplete messages on hop streams. Expected: an error status or a reset within the
//! deadline; other streams and clients are not affected.

use std::time::Instant;

use circuit_relay::{
    MAX_STREAMS_AWAITING_REQUEST, REQUEST_TIMEOUT,
    wire::{self, HopMessage, MAX_MESSAGE_BYTES, Status},
};
use futures::AsyncWriteExt;
use libp2p::{Multiaddr, PeerId};
use prost::Message;
use test_support::{
    ordinary_clients,
    process::Relay,
    raw::{Raw, assert_status, connect, read_out, reserve},
};
use tokio::task::JoinSet;

use crate::{SLACK, target_relay::TargetRelay};

async fn start() -> Relay {
    Relay::start(&[("RELAY_STATS_INTERVAL", "1s")]).await
}

/// Sends these bytes on a hop stream, and asserts the status and the end of the stream.
async fn assert_request_status(relay: &mut Relay, bytes: &[u8], status: Status) {
    for address in [relay.tcp(), relay.quic()] {
        let mut offender = Raw::new(&address).await;
        let (answer, mut stream) = offender.request(bytes).await;
        assert_status(&answer, status);
        assert_eq!(answer.reservation, None);
        let (rest, _) = read_out(&mut stream).await;
        assert!(rest.is_empty(), "{rest:?}");
        let denied = relay.event("request denied").await;
        assert_eq!(denied["status"], status.name(), "{denied}");
        ordinary_clients::assert_served(&address).await;
        // The connection remains usable.
        assert_status(&offender.reserve().await, Status::Ok);
    }
}

async fn assert_request_denied(bytes: &[u8], status: Status) {
    let mut relay = start().await;
    assert_request_status(&mut relay, bytes, status).await;
    relay.assert_unharmed().await;
}

fn encoded(message: &HopMessage) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_message() {
    assert_request_denied(b"\x08garbage!", Status::MalformedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_message() {
    assert_request_denied(&[0], Status::MalformedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlong_length_prefix() {
    assert_request_denied(&[0xff; 64], Status::MalformedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_message() {
    let mut message = reserve();
    // An unknown field with a valid length. The message is valid except for its size.
    message.remove(0);
    message.extend([0x7a, 0xff, 0x1f]);
    message.resize(MAX_MESSAGE_BYTES + 1, 0);
    let mut bytes = vec![0x81, 0x20];
    bytes.extend(message);
    assert_request_denied(&bytes, Status::MalformedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_message_as_request() {
    let message = encoded(&wire::status(Status::Ok));
    assert_request_denied(&message, Status::UnexpectedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_with_invalid_peer_id() {
    let mut relay = start().await;
    let long = [0x12; 1000];
    let cut_off = &PeerId::random().to_bytes()[..20];
    for id in [b"".as_slice(), b"nobody", &long, cut_off] {
        assert_request_status(&mut relay, &connect(id), Status::MalformedMessage).await;
    }
    relay.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_without_target_or_to_oneself() {
    let mut relay = start().await;
    let unreserved = connect(&PeerId::random().to_bytes());
    assert_request_status(&mut relay, &unreserved, Status::NoReservation).await;
    let mut client = Raw::new(&relay.quic()).await;
    assert_status(&client.reserve().await, Status::Ok);
    let (answer, _) = client.connect(client.peer_id).await;
    assert_status(&answer, Status::PermissionDenied);
    drop(client);
    relay.assert_unharmed().await;
}

/// The relay serves the first request and does not read the second.
#[tokio::test(flavor = "multi_thread")]
async fn two_requests_on_one_stream() {
    let relay = start().await;
    for address in [relay.tcp(), relay.quic()] {
        let mut offender = Raw::new(&address).await;
        let (answer, mut stream) = offender.request(&reserve().repeat(2)).await;
        assert_status(&answer, Status::Ok);
        let (rest, _) = read_out(&mut stream).await;
        assert!(rest.is_empty(), "{rest:?}");
        ordinary_clients::assert_served(&address).await;
    }
    relay.assert_unharmed().await;
}

/// An incomplete message is answered with an error after the request timeout.
#[tokio::test(flavor = "multi_thread")]
async fn incomplete_message() {
    let mut relay = start().await;
    let message = connect(&PeerId::random().to_bytes());
    let half = &message[..message.len() / 2];
    let mut offenders = Vec::new();
    for address in [relay.tcp(), relay.quic()] {
        let mut offender = Raw::new(&address).await;
        let mut stream = offender.hop().await;
        stream.write_all(half).await.unwrap();
        stream.flush().await.unwrap();
        offenders.push((offender, stream));
        ordinary_clients::assert_served(&address).await;
    }
    let began = Instant::now();
    for (_, stream) in &mut offenders {
        let answer: HopMessage = wire::read(stream).await.unwrap();
        assert_status(&answer, Status::MalformedMessage);
        let denied = relay.event("request denied").await;
        assert_eq!(denied["reason"], "request_timeout", "{denied}");
    }
    assert!(began.elapsed() < REQUEST_TIMEOUT + SLACK);
    drop(offenders);
    relay.assert_unharmed().await;
}

/// A stream or connection that ends in the middle of a message is dropped without a response.
#[tokio::test(flavor = "multi_thread")]
async fn incomplete_message_and_disconnect() {
    let relay = start().await;
    for address in [relay.tcp(), relay.quic()] {
        let mut offender = Raw::new(&address).await;
        let mut stream = offender.hop().await;
        stream.write_all(&reserve()[..1]).await.unwrap();
        stream.close().await.unwrap();
        let began = Instant::now();
        let (rest, _) = read_out(&mut stream).await;
        assert!(rest.is_empty(), "{rest:?}");
        assert!(began.elapsed() < SLACK);
        let mut stream = offender.hop().await;
        stream.write_all(&reserve()[..1]).await.unwrap();
        drop(offender);
        ordinary_clients::assert_served(&address).await;
    }
    relay.assert_unharmed().await;
}

/// Streams without a request do not prevent other requests, even on the same connection.
async fn streams_without_request(address: impl Fn(&Relay) -> Multiaddr) {
    const STREAMS: usize = 1000;
    let target_relay = TargetRelay::start(&[]).await;
    let address = address(&target_relay.relay);
    let mut offender = Raw::new(&address).await;
    let mut silent = JoinSet::new();
    for _ in 0..STREAMS {
        let mut stream = offender.hop().await;
        // QUIC counts a stream until the client has processed its reset.
        silent.spawn(async move { read_out(&mut stream).await });
    }
    target_relay.assert_serves().await;
    assert_status(&offender.reserve().await, Status::Ok);

    let began = Instant::now();
    let ends = silent.join_all().await;
    assert!(began.elapsed() < REQUEST_TIMEOUT + SLACK);
    let malformed = encoded(&wire::status(Status::MalformedMessage));
    let (answered, reset): (Vec<_>, Vec<_>) = ends
        .into_iter()
        .map(|(bytes, _)| bytes)
        .partition(|bytes| *bytes == malformed);
    assert!(reset.iter().all(Vec::is_empty), "{reset:?}");
    // Streams beyond the limit were reset without a response.
    assert!(
        answered.len() <= MAX_STREAMS_AWAITING_REQUEST,
        "{}",
        answered.len()
    );
    drop(offender);
    target_relay.assert_recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_request_over_tcp() {
    streams_without_request(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_request_over_quic() {
    streams_without_request(Relay::quic).await;
}

/// A malformed or missing STOP response fails only the circuit that it belongs to.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_stop_responses() {
    let mut relay = start().await;
    for address in [relay.tcp(), relay.quic()] {
        for answer in [b"\x08garbage!".as_slice(), &[0xff; 64], b""] {
            let mut target = Raw::new(&address).await;
            let mut source = Raw::new(&address).await;
            assert_status(&target.reserve().await, Status::Ok);
            let id = target.peer_id;
            let misbehave = async {
                let mut stream = target.stop().await;
                stream.write_all(answer).await.unwrap();
                stream.close().await.unwrap();
                stream
            };
            let ((status, _), _stream) = tokio::join!(source.connect(id), misbehave);
            assert_status(&status, Status::ConnectionFailed);
            let denied = relay.event("request denied").await;
            assert_eq!(denied["reason"], "stop_failed", "{denied}");
        }
        ordinary_clients::assert_served(&address).await;
    }
    relay.assert_unharmed().await;
}
