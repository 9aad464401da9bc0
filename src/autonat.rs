//! `AutoNAT` server, versions [1] and [2]: dials peers back, so that they learn whether they are
//! reachable.
//!
//! The relay dials for no other purpose. Which addresses it dials, and how often, is decided by
//! [`dialback`](crate::dialback).
//!
//! This replaces the servers of `libp2p-autonat`, whose answers keep clients of go-libp2p from
//! learning their reachability:
//!
//! - **Version 1, no address named.** A go client names the public addresses that several observers
//!   have reported, so a new one names none. The library answers `E_DIAL_REFUSED`, after which a go
//!   client repeats its request every two seconds. go-libp2p's server dials the observed address,
//!   which is wrong behind a NAT that admits any port of an address that was contacted before: the
//!   dial succeeds, and the client considers itself public. This server answers `E_DIAL_ERROR`
//!   without a dial, after which the client considers itself private and reserves at relays.
//! - **Version 2, dial that gets no answer.** The dial of the library takes as long as the request
//!   may take, so the stream is reset instead of answered. Here the dial ends first
//!   ([`DIAL_TIMEOUT`](transports::DIAL_TIMEOUT)).
//! - **Version 2, QUIC.** A go client resets the dial-back stream as soon as it has received the
//!   nonce. The library reports this as `E_DIAL_BACK_ERROR`. Here a nonce that was sent is a
//!   success; the client verifies the nonce anyway.
//! - **Version 2, several addresses.** The library tests the last address of a request; here it is the
//!   first one that may be dialled, as specified. It also requests up to 100 KB of data before every
//!   dial to prevent amplification attacks. No data is requested here, because an address is only
//!   dialled if the peer is connected from it.
//!
//! [1]: https://github.com/libp2p/specs/blob/master/autonat/autonat-v1.md
//! [2]: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md

mod behaviour;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handler;
mod message;
mod v1;
mod v2;
mod versions;

use libp2p::{Multiaddr, PeerId};
use resource_manager::Resources;
use tokio::sync::{mpsc, oneshot};

pub use self::{
    behaviour::Behaviour,
    handler::{Finished, Handler},
    versions::{ParseVersionError, Version, Versions},
};
use crate::dialback::{DialOutcome, DialPolicy};

/// A dial that a request causes.
#[derive(Debug)]
struct Dial {
    peer: PeerId,
    /// Addresses to dial at once; the first connection counts.
    addresses: Vec<Multiaddr>,
    /// Nonce to send over the new connection, in version 2.
    nonce: Option<u64>,
    result: oneshot::Sender<DialResult>,
}

/// Result of a [`Dial`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum DialResult {
    /// Connected at this address, and sent the nonce if there is one.
    Reached(Multiaddr),
    /// Connected, but the nonce could not be sent.
    DialBackFailed,
    /// No connection was established.
    Unreachable,
    /// The transports dial none of the addresses, for example because they are private.
    NotDialable,
    /// Not dialled, because too many dials are pending.
    Busy,
}

/// What the streams of all connections share.
struct Server {
    policy: DialPolicy,
    dials: mpsc::Sender<Dial>,
    resources: Resources,
}

impl Server {
    /// Dials `peer` at these addresses, which the policy has admitted.
    async fn dial(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        nonce: Option<u64>,
    ) -> DialResult {
        let number = addresses.len();
        let (result, receiver) = oneshot::channel();
        let dial = Dial {
            peer,
            addresses,
            nonce,
            result,
        };
        if self.dials.try_send(dial).is_err() {
            self.policy.record(DialOutcome::MaxDials, number);
            return DialResult::Busy;
        }
        // The sender is dropped without a result when the new connection ends early.
        receiver.await.unwrap_or(DialResult::DialBackFailed)
    }
}
