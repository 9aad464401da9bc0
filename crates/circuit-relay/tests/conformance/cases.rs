//! All conformance cases, by protocol step.

mod circuit;
mod connect;
mod drain;
mod identities;
mod malformed;
mod rates;
mod relayed;
mod renewal;
mod reserve;
mod stop;
mod streams;

use crate::case::Case;

pub fn all() -> Vec<Case> {
    [
        reserve::cases(),
        renewal::cases(),
        connect::cases(),
        drain::cases(),
        identities::cases(),
        rates::cases(),
        stop::cases(),
        circuit::cases(),
        malformed::cases(),
        streams::cases(),
        relayed::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
