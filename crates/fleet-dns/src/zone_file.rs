//! `descord-relay dnsaddr`: the records of the whole fleet, for other name servers.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::dnsaddr::{MAX_TXT_RECORDS, Member, PREFIX, fleet_txt_records};

/// The TXT records of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxtRecordSet {
    /// The full name, without the trailing dot.
    pub name: String,
    /// One string per record.
    pub txt_records: Vec<String>,
}

/// The record sets of a fleet: that of the fleet first, then one per relay.
pub fn txt_record_sets(zone: &str, members: &[Member]) -> Vec<TxtRecordSet> {
    let own = TxtRecordSet {
        name: format!("{PREFIX}.{zone}"),
        txt_records: fleet_txt_records(zone, members),
    };
    let each = members.iter().map(|member| TxtRecordSet {
        name: format!("{PREFIX}.{}.{zone}", member.label()),
        txt_records: member.txt_records(),
    });
    std::iter::once(own).chain(each).collect()
}

/// Formats the record sets as lines of a zone file.
pub fn to_zone_file(sets: &[TxtRecordSet]) -> String {
    let mut lines = String::new();
    for set in sets {
        for text in &set.txt_records {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{}. IN TXT {}", set.name, quote(text));
        }
    }
    lines
}

/// Formats the record sets as the `spec` of a `DNSEndpoint`, the resource of external-dns. `ttl` is in
/// seconds.
pub fn to_dns_endpoint(sets: &[TxtRecordSet], ttl: u64) -> Value {
    let endpoint = |set: &TxtRecordSet| {
        json!({
            "dnsName": set.name,
            "recordType": "TXT",
            "recordTTL": ttl,
            "targets": set.txt_records,
        })
    };
    json!({ "endpoints": sets.iter().map(endpoint).collect::<Vec<_>>() })
}

/// Warnings about records that clients cannot use.
pub fn warnings(sets: &[TxtRecordSet], members: &[Member]) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(own) = sets
        .first()
        .filter(|own| own.txt_records.len() > MAX_TXT_RECORDS)
    {
        warnings.push(format!(
            "{} has {} records: rust-libp2p uses {MAX_TXT_RECORDS} of them",
            own.name,
            own.txt_records.len()
        ));
    }
    for member in members {
        let left_out = member.addresses().len() - member.txt_records().len();
        if left_out > 0 {
            warnings.push(format!(
                "{}: {left_out} of its addresses do not fit into a TXT record",
                member.label()
            ));
        }
    }
    warnings
}

/// A quoted string of a zone file.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                quoted.push('\\');
                quoted.push(byte.into());
            }
            b' '..=b'~' => quoted.push(byte.into()),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(quoted, "\\{byte:03}");
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    #[test]
    fn strings_are_quoted_in_zone_file_syntax() {
        assert_eq!(quote("dnsaddr=/a/b"), r#""dnsaddr=/a/b""#);
        assert_eq!(quote("a\"b\\c\n\u{e4}"), r#""a\"b\\c\010\195\164""#);
    }

    #[test]
    fn fleet_is_formatted_as_zone_file_and_as_dns_endpoint() {
        let peer_id = PeerId::random();
        let address = "/dns4/relay-0.example.org/tcp/9000".parse().unwrap();
        let members = [Member::new(Some("relay-0"), peer_id, vec![address])];
        let sets = txt_record_sets("fleet.example.org", &members);
        let text = format!("dnsaddr=/dns4/relay-0.example.org/tcp/9000/p2p/{peer_id}");
        assert_eq!(
            to_zone_file(&sets),
            format!(
                "_dnsaddr.fleet.example.org. IN TXT \"{text}\"\n\
                 _dnsaddr.relay-0.fleet.example.org. IN TXT \"{text}\"\n"
            )
        );
        assert_eq!(
            to_dns_endpoint(&sets, 300)["endpoints"][1],
            json!({
                "dnsName": "_dnsaddr.relay-0.fleet.example.org",
                "recordType": "TXT",
                "recordTTL": 300,
                "targets": [text],
            })
        );
        assert!(warnings(&sets, &members).is_empty());
    }
}
