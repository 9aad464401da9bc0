//! Bad input on hop streams: the answer or the end within a deadline, and nobody else notices.

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

/// A stream on which these bytes are sent gets this status, and then its end.
async fn gets(relay: &mut Relay, bytes: &[u8], status: Status) {
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
        // The connection is as good as before.
        assert_status(&offender.reserve().await, Status::Ok);
    }
}

async fn is_answered(bytes: &[u8], status: Status) {
    let mut relay = start().await;
    gets(&mut relay, bytes, status).await;
    relay.assert_unharmed().await;
}

fn encoded(message: &HopMessage) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage() {
    is_answered(b"\x08garbage!", Status::MalformedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_message() {
    is_answered(&[0], Status::MalformedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_length() {
    is_answered(&[0xff; 64], Status::MalformedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversize_message() {
    let mut message = reserve();
    // An unknown field of the right size: the message would be valid if it were shorter.
    message.remove(0);
    message.extend([0x7a, 0xff, 0x1f]);
    message.resize(MAX_MESSAGE_BYTES + 1, 0);
    let mut bytes = vec![0x81, 0x20];
    bytes.extend(message);
    is_answered(&bytes, Status::MalformedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status() {
    let message = encoded(&wire::status(Status::Ok));
    is_answered(&message, Status::UnexpectedMessage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_to_no_peer_id() {
    let mut relay = start().await;
    let long = [0x12; 1000];
    let cut_off = &PeerId::random().to_bytes()[..20];
    for id in [b"".as_slice(), b"nobody", &long, cut_off] {
        gets(&mut relay, &connect(id), Status::MalformedMessage).await;
    }
    relay.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_without_a_target_and_to_oneself() {
    let mut relay = start().await;
    let nobody = connect(&PeerId::random().to_bytes());
    gets(&mut relay, &nobody, Status::NoReservation).await;
    let mut narcissus = Raw::new(&relay.quic()).await;
    assert_status(&narcissus.reserve().await, Status::Ok);
    let (answer, _) = narcissus.connect(narcissus.peer_id).await;
    assert_status(&answer, Status::PermissionDenied);
    drop(narcissus);
    relay.assert_unharmed().await;
}

/// The first request is served, the second one is not even read.
#[tokio::test(flavor = "multi_thread")]
async fn two_requests_in_one_stream() {
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

/// An incomplete message is answered with an error after a timeout.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_message() {
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

/// Streams and connections that end in the middle of a message are dropped without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_message_and_the_end() {
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

/// Streams that say nothing take no place away from those that do, even of the same connection.
async fn silent_streams(address: impl Fn(&Relay) -> Multiaddr) {
    const STREAMS: usize = 1000;
    let target_relay = TargetRelay::start(&[]).await;
    let address = address(&target_relay.relay);
    let mut offender = Raw::new(&address).await;
    let mut silent = JoinSet::new();
    for _ in 0..STREAMS {
        let mut stream = offender.hop().await;
        // QUIC counts a stream until its client has seen that it is reset.
        silent.spawn(async move { read_out(&mut stream).await });
    }
    target_relay.assert_serves().await;
    assert_status(&offender.reserve().await, Status::Ok);

    let began = Instant::now();
    let ends = silent.join_all().await;
    assert!(began.elapsed() < REQUEST_TIMEOUT + SLACK);
    let malformed = encoded(&wire::status(Status::MalformedMessage));
    let (told, untold): (Vec<_>, Vec<_>) = ends
        .into_iter()
        .map(|(bytes, _)| bytes)
        .partition(|bytes| *bytes == malformed);
    assert!(untold.iter().all(Vec::is_empty), "{untold:?}");
    // The others had to make room at once.
    assert!(told.len() <= MAX_STREAMS_AWAITING_REQUEST, "{}", told.len());
    drop(offender);
    target_relay.assert_recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_streams_over_tcp() {
    silent_streams(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_streams_over_quic() {
    silent_streams(Relay::quic).await;
}

/// A target that answers a STOP with garbage, or not at all, costs the source its circuit and
/// nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_to_stop() {
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
