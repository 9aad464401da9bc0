//! What a relay says of itself, in its `/status`, taken for hostile: whoever answers at the address
//! of a relay decides where a zone sends people.

use std::collections::HashMap;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde::Deserialize;

use super::dnsaddr::Member;
use crate::external_address::{MAX_EXTERNAL_ADDRESSES, check_external_address};

/// What a relay says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// Who it is, and where it can be dialled.
    pub member: Member,
    /// Whether it serves everybody. One that does not says so itself: it starts, drains or stops.
    pub is_ready: bool,
}

/// Why a report is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// It is not what a relay answers.
    #[error("the answer is not that of a relay")]
    Malformed,
    /// The seed and the names give no relay of that peer id.
    #[error("its peer id is none of the fleet's")]
    NotAMember,
}

/// The peer ids of the fleet, with the instance names that give them.
pub type FleetMembers = HashMap<PeerId, String>;

#[derive(Deserialize)]
struct StatusBody {
    peer_id: String,
    instance: Option<String>,
    phase: String,
    addresses: Vec<String>,
}

impl RelayStatus {
    /// Reads the body of an answer. With `known`, only those relays count, and their names are not
    /// for them to choose. Addresses that no client could dial are left out, and more than
    /// [`MAX_EXTERNAL_ADDRESSES`].
    ///
    /// # Errors
    /// When the answer is of no use.
    pub fn parse(body: &[u8], known: Option<&FleetMembers>) -> Result<Self, StatusError> {
        let status: StatusBody =
            serde_json::from_slice(body).map_err(|_| StatusError::Malformed)?;
        let peer_id: PeerId = status.peer_id.parse().map_err(|_| StatusError::Malformed)?;
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

/// The address without the peer id at its end, if it is this relay's and can be dialled.
fn dialable(text: &str, peer_id: PeerId) -> Option<Multiaddr> {
    let mut address: Multiaddr = text.parse().ok()?;
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
    fn only_addresses_that_can_be_dialled_are_taken() {
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
        let report = RelayStatus::parse(&body(&id, &addresses), None).unwrap();
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/9000".parse().unwrap();
        assert_eq!(
            report.member,
            Member::new(Some("relay-0"), id, vec![address])
        );
        assert!(report.is_ready);
    }

    #[test]
    fn addresses_are_bounded() {
        let id = PeerId::random();
        let address = |port| format!("/ip4/192.0.2.1/tcp/{port}/p2p/{id}");
        let addresses: Vec<_> = (1..1000).map(address).collect();
        let report = RelayStatus::parse(&body(&id, &addresses), None).unwrap();
        assert_eq!(report.member.addresses().len(), MAX_EXTERNAL_ADDRESSES);
    }

    #[test]
    fn a_fleet_that_is_known_takes_nobody_else_and_keeps_its_names() {
        let id = PeerId::random();
        let known = FleetMembers::from([(id, "relay-7".to_owned())]);
        let parse = |id| RelayStatus::parse(&body(&id, &[]), Some(&known));
        assert_eq!(parse(id).unwrap().member.label(), "relay-7");
        assert_eq!(parse(PeerId::random()), Err(StatusError::NotAMember));
    }

    proptest! {
        #[test]
        fn no_answer_panics(body: Vec<u8>, text in "\\PC*") {
            let _ = RelayStatus::parse(&body, None);
            let status = json!({
                "peer_id": text, "instance": text, "phase": text, "addresses": [text],
            });
            let _ = RelayStatus::parse(status.to_string().as_bytes(), None);
        }
    }
}
