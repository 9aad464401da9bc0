//! Bounds of metrics under hostile input. Expected: only series, labels and values of the catalogue
//! exist, and counters match the log.

use std::collections::BTreeSet;

use circuit_relay::wire::{HopMessage, HopType, Status};
use descord_relay::metrics::{INSTRUMENTS, InstrumentKind};
use futures::AsyncWriteExt;
use libp2p::PeerId;
use prost::Message;
use serde_json::Value;
use test_support::{
    process::{Relay, is},
    prometheus::{Sample, Scrape, label, name},
    raw::{Circuit, Raw, assert_status, connect, read_out},
};

use crate::metrics::{start, wait_for_sum};

/// Number of misbehaving peers.
const PEERS: usize = 8;
/// Upper bound of the number of series of a relay, including histogram buckets.
const MAX_SERIES: usize = 600;

/// A request of an unknown type.
fn unknown() -> Vec<u8> {
    let status = HopMessage {
        kind: Some(HopType::Status.into()),
        ..HopMessage::default()
    };
    status.encode_length_delimited_to_vec()
}

/// Misbehaving new peers, each with names and bytes that were not used before.
async fn flood(relay: &Relay) {
    for address in [relay.tcp(), relay.quic()] {
        for _ in 0..PEERS {
            let mut peer = Raw::new(&address).await;
            let own = peer.peer_id;
            let garbage = [&[70], &PeerId::random().to_bytes()[..], &[1; 40]].concat();
            for (request, status) in [
                (connect(&PeerId::random().to_bytes()), Status::NoReservation),
                (connect(&own.to_bytes()), Status::PermissionDenied),
                (connect(&garbage), Status::MalformedMessage),
                (garbage, Status::MalformedMessage),
                (unknown(), Status::UnexpectedMessage),
            ] {
                let (answer, _) = peer.request(&request).await;
                assert_status(&answer, status);
            }
            peer.reserve().await;
        }
        let mut circuit =
            Circuit::between(Raw::new(&address).await, Raw::new(&address).await).await;
        circuit.near.write_all(&[1; 100]).await.unwrap();
        circuit.near.close().await.unwrap();
        circuit.far.close().await.unwrap();
        read_out(&mut circuit.near).await.1.unwrap();
        read_out(&mut circuit.far).await.1.unwrap();
        // The circuit ends shortly after both sides have read everything.
        let is_over = |scrape: &Scrape| scrape.sum("relay_circuit_active", &[]) == Some(0.0);
        Scrape::find(relay, "end of the circuit", is_over).await;
    }
    // Waits until all clients have disconnected.
    let names = ["relay_peer_active", "relay_connection_active"];
    let is_idle = |scrape: &Scrape| names.iter().all(|name| scrape.sum(name, &[]) == Some(0.0));
    Scrape::find(relay, "no connections", is_idle).await;
}

/// The series, without their values.
fn series(scrape: &Scrape) -> BTreeSet<String> {
    let name = |sample: &Sample| format!("{}{:?}", sample.name, sample.labels);
    scrape.0.iter().map(name).collect()
}

/// Whether every label and value of `sample` is in the catalogue.
fn is_listed(sample: &Sample) -> bool {
    INSTRUMENTS.iter().any(|instrument| {
        let name = name(instrument);
        let (names, is_histogram) = match instrument.kind {
            InstrumentKind::Histogram(_) => (
                ["_bucket", "_sum", "_count"]
                    .map(|s| format!("{name}{s}"))
                    .to_vec(),
                true,
            ),
            _ => (vec![name], false),
        };
        let is_known = |(key, value): (&String, &String)| {
            let attributes = instrument.prometheus_attributes();
            let attribute = attributes.iter().find(|a| label(a.key) == *key);
            match attribute {
                Some(attribute) => attribute.values.contains(&value.as_str()),
                None => is_histogram && key == "le",
            }
        };
        let le = usize::from(sample.labels.contains_key("le"));
        names.contains(&sample.name)
            && sample.labels.len() == instrument.prometheus_attributes().len() + le
            && sample.labels.iter().all(is_known)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_misbehaving_peers_adds_no_series() {
    let relay = start(&[]).await;
    flood(&relay).await;
    let first = Scrape::of(&relay).await;
    flood(&relay).await;
    let second = Scrape::of(&relay).await;
    let (before, after) = (series(&first), series(&second));
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:#?}");
    assert!(after.len() < MAX_SERIES, "{} series", after.len());
    for sample in &second.0 {
        assert!(
            sample.name == "target_info" || is_listed(sample),
            "{sample:?}"
        );
    }
}

/// The number of log events with this message prefix and field value.
fn logged(events: &[Value], message: &str, (field, value): (&str, &str)) -> usize {
    let is_meant =
        |event: &&Value| is(event, message) && (field.is_empty() || event[field] == value);
    events.iter().filter(is_meant).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_match_the_log() {
    // Such early renewals are logged at level debug.
    let variables = [
        ("RELAY_MAX_RESERVATIONS", "5"),
        ("RUST_LOG", "descord_relay=debug"),
    ];
    let relay = start(&variables).await;
    // Reserved peers stay connected, so that others are refused.
    let mut reserved_peers = Vec::new();
    for _ in 0..3 {
        let mut reserved = Raw::new(&relay.tcp()).await;
        assert_status(&reserved.reserve().await, Status::Ok);
        assert_status(&reserved.reserve().await, Status::Ok);
        reserved_peers.push(reserved);
    }
    let mut idle_peers = Vec::new();
    for _ in 0..4 {
        let mut peer = Raw::new(&relay.quic()).await;
        peer.reserve().await;
        peer.connect(PeerId::random()).await;
        idle_peers.push(peer);
    }
    drop((reserved_peers, idle_peers));
    let ended = "relay_reservation_duration_seconds_count";
    wait_for_sum(&relay, ended, &[], 5.0).await;
    flood(&relay).await;
    let scrape = Scrape::of(&relay).await;
    let events = relay.stop().await;

    let count = |series: &str, labels: &[(&str, &str)]| scrape.sum(series, labels).unwrap_or(0.0);
    for (message, field, series, labels) in [
        (
            "reservation accepted",
            ("", ""),
            "relay_hop_requests_total",
            [("request", "reserve"), ("outcome", "accepted")],
        ),
        (
            "reservation renewed",
            ("", ""),
            "relay_hop_requests_total",
            [("request", "reserve"), ("outcome", "renewed")],
        ),
        (
            "circuit accepted",
            ("", ""),
            "relay_hop_requests_total",
            [("request", "connect"), ("outcome", "accepted")],
        ),
        (
            "request denied",
            ("reason", "max_reservations"),
            "relay_hop_requests_total",
            [("request", "reserve"), ("reason", "max_reservations")],
        ),
        (
            "request denied",
            ("reason", "no_reservation"),
            "relay_hop_requests_total",
            [("request", "connect"), ("reason", "no_reservation")],
        ),
        (
            "request denied",
            ("reason", "malformed_message"),
            "relay_hop_requests_total",
            [("request", "unknown"), ("reason", "malformed_message")],
        ),
        (
            "request denied",
            ("", ""),
            "relay_hop_requests_total",
            [("outcome", "denied"), ("outcome", "denied")],
        ),
        (
            "reservation closed",
            ("", ""),
            ended,
            [("reason", "closed"), ("reason", "closed")],
        ),
        (
            "circuit closed",
            ("reason", "eof"),
            "relay_circuit_duration_seconds_count",
            [("reason", "eof"), ("reason", "eof")],
        ),
    ] {
        let logged = logged(&events, message, field);
        assert!(logged > 0, "{message} {field:?}");
        #[expect(clippy::cast_precision_loss, reason = "it is small")]
        let logged = logged as f64;
        let counted = count(series, &labels);
        assert!(
            (counted - logged).abs() < 0.5,
            "{message} {field:?}: {counted}, logged {logged}"
        );
    }
}
