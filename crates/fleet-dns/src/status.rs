//! The status of a relay, from its `/status`. It is untrusted input: a host at the address of a relay
//! would decide where the zone leads clients.

use std::collections::HashMap;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use peer_id_text::{parse_multiaddr, parse_peer_id};
use serde::Deserialize;

use super::dnsaddr::Member;
use crate::external_address::{MAX_EXTERNAL_ADDRESSES, check_external_address};

/// The status of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// Its peer id, label and addresses.
    pub member: Member,
    /// Whether it is ready. It is not while it starts, drains or stops.
    pub is_ready: bool,
}

/// Why a status is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// It does not have the format of a relay's status.
    #[error("malformed status")]
    Malformed,
    /// Its peer id does not belong to the fleet.
    #[error("the peer id does not belong to the fleet")]
    NotAMember,
}

/// The peer ids of the fleet's relays, with their instance names.
pub type FleetMembers = HashMap<PeerId, String>;

#[derive(Deserialize)]
struct StatusBody {
    peer_id: String,
    instance: Option<String>,
    phase: String,
    addresses: Vec<String>,
}

impl RelayStatus {
    /// Parses the body of a response. With `known`, only those relays are accepted, under their known
    /// names. Addresses that clients cannot dial are skipped, as are those beyond
    /// [`MAX_EXTERNAL_ADDRESSES`].
    ///
    /// # Errors
    /// When the status is malformed, or that of an unknown relay.
    pub fn parse(body: &[u8], known: Option<&FleetMembers>) -> Result<Self, StatusError> {
        let status: StatusBody =
            serde_json::from_slice(body).map_err(|_| StatusError::Malformed)?;
        let peer_id: PeerId = parse_peer_id(&status.peer_id).map_err(|_| StatusError::Malformed)?;
        let instance = match known {
            Some(known) => Some(known.get(&peer_id).ok_or(StatusError::NotAMember)?.as_str()),
            None => status.instance.as_deref(),
        };
        let addresses = status.addresses.iter();
        let addresses = addresses
            .take(MAX_EXTERNAL_ADDRESSES)
            .filter_map(|address| dialable(address, peer_id))
            .collect();
        Ok(Self {
            member: Member::new(instance, peer_id, addresses),
            is_ready: status.phase == "ready",
        })
    }
}

/// The address without its `/p2p` suffix, if that is the relay's own and clients can dial it.
fn dialable(text: &str, peer_id: PeerId) -> Option<Multiaddr> {
    let mut address = parse_multiaddr(text).ok()?;
    let is_its_own = address.pop() == Some(Protocol::P2p(peer_id));
    (is_its_own && check_external_address(&address).is_ok()).then_some(address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn body(peer_id: &PeerId, addresses: &[String]) -> Vec<u8> {
        let status = json!({
            "peer_id": peer_id.to_string(),
            "instance": "relay-0",
            "phase": "ready",
            "addresses": addresses,
            "more": {},
        });
        status.to_string().into_bytes()
    }

    #[test]
    fn addresses_that_cannot_be_dialled_are_skipped() {
        let (id, other) = (PeerId::random(), PeerId::random());
        let good = format!("/ip4/192.0.2.1/tcp/9000/p2p/{id}");
        let addresses = [
            format!("/ip4/192.0.2.1/tcp/9000/p2p/{other}"),
            "/ip4/192.0.2.1/tcp/9000".to_owned(),
            format!("/ip4/0.0.0.0/tcp/9000/p2p/{id}"),
            format!("/ip4/192.0.2.1/tcp/9000/p2p/{other}/p2p-circuit/p2p/{id}"),
            format!("/dnsaddr/example.org/p2p/{id}"),
            format!("/dns4/{}/tcp/9000/p2p/{id}", "a".repeat(64)),
            "nonsense".to_owned(),
            good,
        ];
        let status = RelayStatus::parse(&body(&id, &addresses), None).unwrap();
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/9000".parse().unwrap();
        assert_eq!(
            status.member,
            Member::new(Some("relay-0"), id, vec![address])
        );
        assert!(status.is_ready);
    }

    #[test]
    fn addresses_are_bounded() {
        let id = PeerId::random();
        let address = |port| format!("/ip4/192.0.2.1/tcp/{port}/p2p/{id}");
        let addresses: Vec<_> = (1..1000).map(address).collect();
        let status = RelayStatus::parse(&body(&id, &addresses), None).unwrap();
        assert_eq!(status.member.addresses().len(), MAX_EXTERNAL_ADDRESSES);
    }

    #[test]
    fn known_fleet_rejects_other_relays_and_keeps_its_names() {
        let id = PeerId::random();
        let known = FleetMembers::from([(id, "relay-7".to_owned())]);
        let parse = |id| RelayStatus::parse(&body(&id, &[]), Some(&known));
        assert_eq!(parse(id).unwrap().member.label(), "relay-7");
        assert_eq!(parse(PeerId::random()), Err(StatusError::NotAMember));
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>, text in "\\PC*") {
            let _ = RelayStatus::parse(&body, None);
            let status = json!({
                "peer_id": text, "instance": text, "phase": text, "addresses": [text],
            });
            let _ = RelayStatus::parse(status.to_string().as_bytes(), None);
        }
    }
}
