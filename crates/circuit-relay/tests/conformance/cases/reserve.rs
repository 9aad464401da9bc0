//! RESERVE: conditions, and the content of the response.

use std::time::{Duration, SystemTime};

use circuit_relay::{
    VOUCHER_DOMAIN, VOUCHER_PAYLOAD_TYPE, Voucher,
    wire::{Reservation, Status},
};
use libp2p::{Multiaddr, core::SignedEnvelope};
use prost::Message;

use crate::{
    case::Case,
    harness::{
        answer::{self, list},
        client::{Client, until},
        net::Net,
        server::Server,
    },
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("RESERVE", answer, "OK"),
        Case::new(
            "the expiry of a reservation",
            expiry,
            "one time to live from now",
        ),
        Case::new(
            "the addresses of a reservation",
            addresses,
            "the announced one, ending in the relay's peer id",
        ),
        Case::new("the voucher of a reservation", voucher, "valid").differs(
            "none",
            "The specification defines a signed voucher, and clients verify those that they receive: \
             domain, payload type, relay, peer and expiry are correct.",
        ),
        Case::new(
            "the limit in the answer to RESERVE",
            limit,
            "3600 s, 100000000 bytes",
        ),
        Case::new(
            "RESERVE when all reservations are in use",
            full,
            "RESERVATION_REFUSED",
        )
        .limits(|limits| limits.reservations = Some(1))
        .differs(
            "RESOURCE_LIMIT_EXCEEDED",
            "This is the status of the specification for a refused reservation; \
             RESOURCE_LIMIT_EXCEEDED refers to circuits.",
        ),
        Case::new("RESERVE after a reservation has ended", after_release, "OK")
            .limits(|limits| limits.reservations = Some(1)),
        Case::new(
            "RESERVE by two peers behind one IP address with a limit of one",
            per_ip,
            "OK, RESERVATION_REFUSED",
        )
        .limits(|limits| limits.reservations_per_ip = Some(1))
        .on(Net::SOCKETS)
        .differs(
            "OK, OK",
            "One address cannot use all reservations: their number per IP address is limited, \
             not only their rate.",
        ),
    ]
}

async fn reservation(server: &Server) -> (Client, Reservation) {
    let (client, connection) = Client::connected(server).await;
    let message = connection.reserve().await.granted();
    (client, message.reservation.expect("a reservation"))
}

async fn answer(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    connection.reserve().await.to_string()
}

async fn expiry(relay: Server) -> String {
    let now = || {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        time.unwrap().as_secs()
    };
    let ttl = relay.limits.reservation_ttl.as_secs();
    let before = now();
    let (_client, reservation) = reservation(&relay).await;
    // Both timestamps are rounded down to seconds.
    let possible = (before + ttl).saturating_sub(1)..=now() + ttl;
    match reservation.expire {
        Some(expire) if possible.contains(&expire) => "one time to live from now".into(),
        other => format!("{other:?}, not in {possible:?}"),
    }
}

async fn addresses(relay: Server) -> String {
    let (_client, reservation) = reservation(&relay).await;
    let expected = [relay.full_address()];
    let addresses: Result<Vec<_>, _> = reservation
        .addrs
        .into_iter()
        .map(Multiaddr::try_from)
        .collect();
    match addresses {
        Ok(addresses) if addresses == expected => {
            "the announced one, ending in the relay's peer id".into()
        }
        other => format!("{other:?}, not {expected:?}"),
    }
}

async fn voucher(relay: Server) -> String {
    let (client, reservation) = reservation(&relay).await;
    let Some(envelope) = reservation.voucher else {
        return "none".into();
    };
    // Spelled out, because other implementations compare with this payload type.
    assert_eq!(VOUCHER_PAYLOAD_TYPE, [0x03, 0x02]);
    let envelope = SignedEnvelope::from_protobuf_encoding(&envelope).unwrap();
    let (payload, signer) = envelope
        .payload_and_signing_key(VOUCHER_DOMAIN.to_owned(), &VOUCHER_PAYLOAD_TYPE)
        .unwrap();
    let voucher = Voucher::decode(payload).unwrap();
    let expected = Voucher {
        relay: Some(relay.peer_id.to_bytes()),
        peer: Some(client.peer_id.to_bytes()),
        expiration: reservation.expire,
    };
    if signer.to_peer_id() == relay.peer_id && voucher == expected {
        "valid".into()
    } else {
        format!("{voucher:?}, not {expected:?}")
    }
}

async fn limit(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    answer::limit(connection.reserve().await.granted().limit)
}

async fn full(relay: Server) -> String {
    let _reserved = Client::reserved(&relay).await;
    let (_client, connection) = Client::connected(&relay).await;
    connection.reserve().await.to_string()
}

async fn after_release(relay: Server) -> String {
    let reserved = Client::reserved(&relay).await;
    let (_client, connection) = Client::connected(&relay).await;
    drop(reserved);
    until(Status::Ok, || connection.reserve()).await.to_string()
}

async fn per_ip(relay: Server) -> String {
    let (_one, first) = Client::connected(&relay).await;
    let (_other, second) = Client::connected(&relay).await;
    list([first.reserve().await, second.reserve().await])
}

/// Short enough for tests, long enough for requests before the expiry.
pub const SHORT_TTL: Duration = Duration::from_millis(1500);
