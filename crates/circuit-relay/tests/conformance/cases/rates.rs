//! Requests beyond the rate limits.

use std::num::NonZeroU32;

use libp2p::PeerId;
use rate_limits::{Rate, Unit};

use crate::{
    case::Case,
    harness::{answer::list, client::Client, net::Net, server::Server},
};

/// A burst of one. The next token is only available after the end of the case.
const ONCE: Rate = Rate {
    burst: NonZeroU32::MIN,
    refill: NonZeroU32::MIN,
    per: Unit::Hour,
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "renewal by a peer with a rate limit of one request per hour",
            renewed,
            "OK, OK",
        )
        .limits(|limits| limits.reservation_rate.per_peer = Some(ONCE))
        .differs(
            "OK, RESOURCE_LIMIT_EXCEEDED",
            "A renewal needs no further resources, so it is exempt: neither a flood of the peer \
             nor of its neighbours ends its reservation.",
        ),
        Case::new(
            "RESERVE by two peers behind one IP address with a rate limit of one request per \
             hour",
            same_ip_address,
            "OK, RESERVATION_REFUSED",
        )
        .limits(|limits| limits.reservation_rate.per_ip = Some(ONCE))
        .on(Net::SOCKETS)
        .differs(
            "OK, RESOURCE_LIMIT_EXCEEDED",
            "This is the status of the specification for a refused reservation.",
        ),
        Case::new(
            "CONNECT twice with a rate limit of one request per hour",
            twice,
            "NO_RESERVATION, RESOURCE_LIMIT_EXCEEDED",
        )
        .limits(|limits| limits.circuit_rate.per_peer = Some(ONCE)),
    ]
}

async fn renewed(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    list([connection.reserve().await, connection.reserve().await])
}

async fn same_ip_address(relay: Server) -> String {
    let (_one, first) = Client::connected(&relay).await;
    let (_other, second) = Client::connected(&relay).await;
    list([first.reserve().await, second.reserve().await])
}

async fn twice(relay: Server) -> String {
    let (_client, connection) = Client::connected(&relay).await;
    let target = PeerId::random();
    let first = connection.connect(target).await;
    list([first, connection.connect(target).await])
}
