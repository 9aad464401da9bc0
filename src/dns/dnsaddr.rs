//! The TXT strings of a fleet's `_dnsaddr` records.
//!
//! What clients do with `/dnsaddr/<name>` decides their shape:
//!
//! - They read the TXT records of `_dnsaddr.<name>` that start with `dnsaddr=`; rust reads the
//!   first string of a record alone. So each text is one string.
//! - With `/p2p/<id>` behind the name, rust and go keep the TXT strings that end in it, and js those that
//!   contain it. So each text ends in a peer id, those that point to another name included.
//! - rust takes 16 such TXT strings of an answer, looks up 32 names for one address, those in `/dns4` and
//!   the like included, and tries 16 addresses. go takes 100 addresses and goes 4 names deep, js
//!   goes 32 names deep and tries 25 addresses.
//!
//! So an answer has at most 16 TXT strings, and one that is whole in a UDP packet wherever that can be: a
//! fleet's own record set holds the addresses themselves while they fit, and otherwise one pointer
//! for each relay, `/dnsaddr/<relay>.<zone>/p2p/<id>`, to a record set of its own.

use std::collections::HashSet;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// Texts that rust's clients read of one answer.
pub const MAX_TXT_RECORDS: usize = 16;

/// Bytes of a string in a TXT record.
pub const MAX_TXT_BYTES: usize = 255;

/// Bytes of an answer that is not truncated over UDP, by most clients and resolvers: what fits
/// into a packet that no network has to take apart.
pub const MAX_UDP_BYTES: usize = 1232;

/// What the record sets of `/dnsaddr/<name>` are named: this, a dot, the name.
pub const PREFIX: &str = "_dnsaddr";

/// The most bytes of a label of a DNS name.
const MAX_LABEL: usize = 63;

/// A relay of the fleet, as it stands in the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    label: String,
    peer_id: PeerId,
    addresses: Vec<Multiaddr>,
}

impl Member {
    /// The relay of this instance name, if it has one. `addresses` are without the peer id.
    ///
    /// Its label in the zone is the instance name in lower case, or the peer id in lower case where
    /// the instance name cannot be a label.
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

    /// Its name in the zone, without the zone.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Who it is.
    pub fn peer_id(&self) -> &PeerId {
        &self.peer_id
    }

    /// Where it can be dialled.
    pub fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// The TXT strings of its own record set. Addresses whose text is too long for one are left out.
    pub fn txt_records(&self) -> Vec<String> {
        self.addresses
            .iter()
            .map(|address| text(&address.clone().with(Protocol::P2p(self.peer_id))))
            .filter(|text| text.len() <= MAX_TXT_BYTES)
            .take(MAX_TXT_RECORDS)
            .collect()
    }

    /// The text that points to its own record set.
    fn pointer(&self, zone: &str) -> String {
        let name = Protocol::Dnsaddr(format!("{}.{zone}", self.label).into());
        text(&Multiaddr::from(name).with(Protocol::P2p(self.peer_id)))
    }
}

/// Gives each of `members` a label of its own: of several with one label, all but the first are
/// named by their peer id.
pub fn dedup_labels(members: &mut [Member]) {
    let mut taken = HashSet::new();
    for member in members {
        if !taken.insert(member.label.clone()) {
            *member = Member::new(None, member.peer_id, std::mem::take(&mut member.addresses));
            taken.insert(member.label.clone());
        }
    }
}

/// The TXT strings of the fleet's own record set, one for each address or one for each relay. There are
/// more than [`MAX_TXT_RECORDS`] of them if the fleet has more relays than that.
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

/// How long the answer with these TXT strings is: header, question, EDNS, and for each text its record
/// with a compressed name and the length of the string.
fn answer_bytes(zone: &str, txt_records: &[String]) -> usize {
    const HEADER: usize = 12;
    const EDNS: usize = 11;
    const RECORD: usize = 2 + 2 + 2 + 4 + 2 + 1;
    // Each label has one byte for its length, and the root is one byte.
    let question = PREFIX.len() + 1 + zone.len() + 2 + 4;
    let records: usize = txt_records.iter().map(|text| RECORD + text.len()).sum();
    HEADER + question + EDNS + records
}

fn text(address: &Multiaddr) -> String {
    format!("dnsaddr={address}")
}

/// Letters, digits and hyphens in the middle: what every resolver takes for a host's name.
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
    fn a_small_fleet_is_listed_by_its_addresses() {
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
    fn a_larger_fleet_is_listed_by_its_relays() {
        let members: Vec<_> = (0..9).map(|n| member(n, 2)).collect();
        let txt_records = fleet_txt_records(ZONE, &members);
        let id = members[8].peer_id;
        assert_eq!(txt_records.len(), 9);
        assert_eq!(
            txt_records[8],
            format!("dnsaddr=/dnsaddr/relay-8.fleet.example.org/p2p/{id}")
        );
        assert_eq!(members[8].txt_records().len(), 2);
        // Few records may be too long together, too.
        let members: Vec<_> = (0..2).map(|n| member(n, 8)).collect();
        assert_eq!(fleet_txt_records(ZONE, &members).len(), 2);
    }

    #[test]
    fn a_relay_that_nobody_can_dial_is_not_pointed_to() {
        let mut members: Vec<_> = (0..17).map(|n| member(n, 1)).collect();
        members.push(member(17, 0));
        assert_eq!(fleet_txt_records(ZONE, &members).len(), 17);
    }

    #[test]
    fn a_name_that_is_no_label_gives_way_to_the_peer_id() {
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
        /// Whatever the zone and the names: every text fits into its string.
        #[test]
        fn texts_fit(
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
