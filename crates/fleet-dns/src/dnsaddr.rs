//! The TXT records of a fleet's `_dnsaddr` names.
//!
//! Their shape follows from what client implementations do with `/dnsaddr/<name>`:
//!
//! - Clients read the TXT records of `_dnsaddr.<name>` that start with `dnsaddr=`; rust-libp2p reads
//!   only the first string of a record. So each record has one string.
//! - With `/p2p/<id>` after the name, rust-libp2p and go-libp2p keep the records that end in it, and
//!   js-libp2p those that contain it. So each record ends in a peer id, including those that point to
//!   another name.
//! - rust-libp2p uses 16 records of an answer, resolves 32 names per address (including those in
//!   `/dns4` and the like), and tries 16 addresses. go-libp2p uses 100 addresses and resolves 4 levels
//!   of names; js-libp2p resolves 32 levels and tries 25 addresses.
//!
//! So an answer has at most 16 records, and fits into a UDP packet where that is possible: the
//! fleet's own record set holds the addresses themselves while they fit, and otherwise one pointer
//! per relay, `/dnsaddr/<relay>.<zone>/p2p/<id>`, to the record set of that relay.

use std::collections::HashSet;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// Maximum number of records of an answer; rust-libp2p reads no more.
pub const MAX_TXT_RECORDS: usize = 16;

/// Maximum length of a string in a TXT record, in bytes.
pub const MAX_TXT_BYTES: usize = 255;

/// Maximum length of a response over UDP, in bytes: most clients and resolvers accept as much, and
/// no network fragments it.
pub const MAX_UDP_BYTES: usize = 1232;

/// The first label of the names with `dnsaddr` records: `_dnsaddr.<name>`.
pub const PREFIX: &str = "_dnsaddr";

/// Maximum length of a label of a DNS name, in bytes.
const MAX_LABEL: usize = 63;

/// A relay of the fleet, as published in the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    label: String,
    peer_id: PeerId,
    addresses: Vec<Multiaddr>,
}

impl Member {
    /// A relay with its instance name, if it has one. `addresses` are without the peer id.
    ///
    /// Its label in the zone is the instance name in lower case, or the peer id in lower case where
    /// the instance name is not a valid label.
    pub fn new(instance: Option<&str>, peer_id: PeerId, addresses: Vec<Multiaddr>) -> Self {
        let label = instance
            .filter(|instance| is_label(instance))
            .map_or_else(|| peer_id.to_string(), str::to_owned)
            .to_ascii_lowercase();
        Self {
            label,
            peer_id,
            addresses,
        }
    }

    /// Its label in the zone.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its peer id.
    pub fn peer_id(&self) -> &PeerId {
        &self.peer_id
    }

    /// The addresses at which it can be dialled.
    pub fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// The records of the relay's name. Addresses that do not fit into a record are skipped.
    pub fn txt_records(&self) -> Vec<String> {
        self.addresses
            .iter()
            .map(|address| text(&address.clone().with(Protocol::P2p(self.peer_id))))
            .filter(|text| text.len() <= MAX_TXT_BYTES)
            .take(MAX_TXT_RECORDS)
            .collect()
    }

    /// The record that points to its own name.
    fn pointer(&self, zone: &str) -> String {
        let name = Protocol::Dnsaddr(format!("{}.{zone}", self.label).into());
        text(&Multiaddr::from(name).with(Protocol::P2p(self.peer_id)))
    }
}

/// Makes labels unique: of several members with the same label, all but the first use their peer id.
pub fn dedup_labels(members: &mut [Member]) {
    let mut taken = HashSet::new();
    for member in members {
        if !taken.insert(member.label.clone()) {
            *member = Member::new(None, member.peer_id, std::mem::take(&mut member.addresses));
            taken.insert(member.label.clone());
        }
    }
}

/// The records of the fleet's own name, one for each address or one for each relay. There are more
/// than [`MAX_TXT_RECORDS`] of them if the fleet has more relays than that.
pub fn fleet_txt_records(zone: &str, members: &[Member]) -> Vec<String> {
    let addresses: Vec<_> = members.iter().flat_map(Member::txt_records).collect();
    if addresses.len() <= MAX_TXT_RECORDS && answer_bytes(zone, &addresses) <= MAX_UDP_BYTES {
        return addresses;
    }
    let reachable = members
        .iter()
        .filter(|member| !member.txt_records().is_empty());
    reachable.map(|member| member.pointer(zone)).collect()
}

/// Length of the response with these records: header, question, EDNS, and for each record its
/// compressed name and the length byte of its string.
fn answer_bytes(zone: &str, txt_records: &[String]) -> usize {
    const HEADER: usize = 12;
    const EDNS: usize = 11;
    const RECORD: usize = 2 + 2 + 2 + 4 + 2 + 1;
    // Each label takes one byte for its length, and the root takes one byte.
    let question = PREFIX.len() + 1 + zone.len() + 2 + 4;
    let records: usize = txt_records.iter().map(|text| RECORD + text.len()).sum();
    HEADER + question + EDNS + records
}

fn text(address: &Multiaddr) -> String {
    format!("dnsaddr={address}")
}

/// Letters, digits and inner hyphens, which every resolver accepts in a host name.
fn is_label(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZONE: &str = "fleet.example.org";

    fn member(n: usize, addresses: usize) -> Member {
        let address = |port| format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap();
        let addresses = (9000..9000 + addresses).map(address).collect();
        Member::new(Some(&format!("relay-{n}")), PeerId::random(), addresses)
    }

    #[test]
    fn small_fleet_is_listed_by_addresses() {
        let members = [member(0, 2), member(1, 2), member(2, 2)];
        let txt_records = fleet_txt_records(ZONE, &members);
        let id = members[0].peer_id;
        assert_eq!(txt_records.len(), 6);
        assert_eq!(
            txt_records[0],
            format!("dnsaddr=/ip4/192.0.2.1/tcp/9000/p2p/{id}")
        );
    }

    #[test]
    fn larger_fleet_is_listed_by_relays() {
        let members: Vec<_> = (0..9).map(|n| member(n, 2)).collect();
        let txt_records = fleet_txt_records(ZONE, &members);
        let id = members[8].peer_id;
        assert_eq!(txt_records.len(), 9);
        assert_eq!(
            txt_records[8],
            format!("dnsaddr=/dnsaddr/relay-8.fleet.example.org/p2p/{id}")
        );
        assert_eq!(members[8].txt_records().len(), 2);
        // A few records may be too long together.
        let members: Vec<_> = (0..2).map(|n| member(n, 8)).collect();
        assert_eq!(fleet_txt_records(ZONE, &members).len(), 2);
    }

    #[test]
    fn relay_without_addresses_is_not_pointed_to() {
        let mut members: Vec<_> = (0..17).map(|n| member(n, 1)).collect();
        members.push(member(17, 0));
        assert_eq!(fleet_txt_records(ZONE, &members).len(), 17);
    }

    #[test]
    fn invalid_label_is_replaced_by_the_peer_id() {
        let peer_id = PeerId::random();
        let label = |instance| Member::new(instance, peer_id, Vec::new()).label;
        let id = peer_id.to_string().to_ascii_lowercase();
        let too_long = "a".repeat(64);
        for instance in ["a.b", "-a", "a-", "_a", "", &too_long] {
            assert_eq!(label(Some(instance)), id, "{instance}");
        }
        assert_eq!(label(None), id);
        assert_eq!(label(Some("Relay-0")), "relay-0");
    }

    #[test]
    fn labels_are_unique() {
        let mut members = [member(0, 1), member(0, 1), member(1, 1)];
        let addresses = members[1].addresses.clone();
        dedup_labels(&mut members);
        let id = members[1].peer_id.to_string().to_ascii_lowercase();
        assert_eq!(
            members.each_ref().map(Member::label),
            ["relay-0", &id, "relay-1"]
        );
        assert_eq!(members[1].addresses, addresses);
    }

    proptest! {
        /// For any zone and names, every record fits into its string.
        #[test]
        fn records_fit(
            zone in "[a-z]{1,50}\\.[a-z]{1,49}",
            name in "[a-z0-9]{1,63}",
            host in "[a-z.]{1,250}",
            relays in 0..40_usize,
        ) {
            let address: Multiaddr = Protocol::Dns4(host.into()).into();
            let address = address.with(Protocol::Tcp(9000));
            let members: Vec<_> = (0..relays)
                .map(|_| Member::new(Some(&name), PeerId::random(), vec![address.clone()]))
                .collect();
            for text in fleet_txt_records(&zone, &members) {
                prop_assert!(text.len() <= MAX_TXT_BYTES);
                prop_assert!(text.strip_prefix("dnsaddr=").unwrap().parse::<Multiaddr>().is_ok());
            }
        }
    }
}
