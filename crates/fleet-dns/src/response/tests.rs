//! Queries of every kind, and arbitrary bytes.

use std::collections::HashSet;

use hickory_proto::rr::rdata::A;
use proptest::prelude::*;

use super::*;
use crate::{directory::Listing, zone::tests as zones};

const FLEET: &str = "_dnsaddr.fleet.example.org.";

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version);
    message.set_edns(edns);
    message
}

fn query_over(zone: &Zone, message: &Message, transport: DnsTransport, rotation: usize) -> Message {
    let packet = message.to_vec().unwrap();
    let answer = respond(zone, &packet, transport, rotation).unwrap();
    Message::from_vec(&answer.bytes).unwrap()
}

fn query(zone: &Zone, message: &Message) -> Message {
    query_over(zone, message, DnsTransport::Udp, 0)
}

fn code(zone: &Zone, message: &Message) -> ResponseCode {
    let reply = query(zone, message);
    assert_eq!(reply.id, 4711);
    assert_eq!(reply.message_type, MessageType::Response);
    assert!(!reply.recursion_available);
    reply.metadata.response_code
}

#[test]
fn records_have_the_name_as_queried() {
    let zone = zones::zone(2);
    let name = "_DNSaddr.Fleet.example.ORG.";
    let reply = query(&zone, &with_edns(question(name, RecordType::TXT), 1232, 0));
    assert!(reply.authoritative && reply.recursion_desired && !reply.truncation);
    assert_eq!(reply.answers.len(), 6);
    assert_eq!(reply.queries[0].name.to_ascii(), name);
    for record in &reply.answers {
        assert_eq!(record.name.to_ascii(), name);
        assert_eq!(record.ttl, 5);
    }
    assert_eq!(reply.edns.unwrap().max_payload(), 1232);
}

#[test]
fn nonexistent_name_or_type_is_denied_with_the_soa() {
    let zone = zones::zone(2);
    let cases = [
        (FLEET, RecordType::A, ResponseCode::NoError),
        ("fleet.example.org.", RecordType::MX, ResponseCode::NoError),
        (
            "ns.fleet.example.org.",
            RecordType::A,
            ResponseCode::NoError,
        ),
        (
            "x.fleet.example.org.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "x.fleet.example.org.",
            RecordType::ANY,
            ResponseCode::NXDomain,
        ),
    ];
    for (name, record_type, expected) in cases {
        let reply = query(&zone, &question(name, record_type));
        assert_eq!(reply.metadata.response_code, expected, "{name}");
        assert!(reply.authoritative && reply.answers.is_empty(), "{name}");
        let [soa] = reply.authorities.as_slice() else {
            panic!("{:?}", reply.authorities);
        };
        assert_eq!(soa.name.to_ascii(), "fleet.example.org.");
        assert!(matches!(&soa.data, RData::SOA(soa) if soa.minimum == 5 && soa.serial == 7));
    }
}

#[test]
fn name_servers_come_with_their_addresses() {
    let reply = query(
        &zones::zone(1),
        &question("fleet.example.org.", RecordType::NS),
    );
    assert_eq!(reply.answers.len(), 2);
    let [glue] = reply.additionals.as_slice() else {
        panic!("{:?}", reply.additionals);
    };
    assert_eq!(glue.name.to_ascii(), "a.ns.fleet.example.org.");
}

#[test]
fn any_is_answered_with_one_hinfo_record() {
    let reply = query(
        &zones::zone(2),
        &question("fleet.example.org.", RecordType::ANY),
    );
    let [record] = reply.answers.as_slice() else {
        panic!("{:?}", reply.answers);
    };
    assert!(matches!(&record.data, RData::HINFO(hinfo) if &*hinfo.cpu == b"RFC8482"));
}

#[test]
fn names_outside_the_zone_are_refused() {
    let zone = zones::zone(2);
    for name in [
        "example.org.",
        "www.example.com.",
        ".",
        "_dnsaddr.bootstrap.libp2p.io.",
    ] {
        let reply = query(&zone, &question(name, RecordType::TXT));
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::Refused,
            "{name}"
        );
        assert!(!reply.authoritative && reply.authorities.is_empty());
    }
    for transfer in [RecordType::AXFR, RecordType::IXFR] {
        let message = question("fleet.example.org.", transfer);
        assert_eq!(code(&zone, &message), ResponseCode::Refused);
    }
}

#[test]
fn other_classes_and_opcodes_are_not_implemented() {
    let zone = zones::zone(1);
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(code(&zone, &chaos), ResponseCode::NotImp);
    for opcode in [
        OpCode::Status,
        OpCode::Notify,
        OpCode::Update,
        OpCode::Unknown(9),
    ] {
        let mut message = question(FLEET, RecordType::TXT);
        message.metadata.op_code = opcode;
        assert_eq!(code(&zone, &message), ResponseCode::NotImp, "{opcode:?}");
    }
}

#[test]
fn query_has_exactly_one_question() {
    let zone = zones::zone(1);
    let mut none = question(FLEET, RecordType::TXT);
    let query = none.queries.remove(0);
    assert_eq!(code(&zone, &none), ResponseCode::FormErr);
    let mut two = question(FLEET, RecordType::TXT);
    two.add_query(query);
    assert_eq!(code(&zone, &two), ResponseCode::FormErr);
    let mut both = question(FLEET, RecordType::TXT);
    both.add_answer(Record::from_rdata(
        Name::root(),
        0,
        RData::A(A::new(0, 0, 0, 0)),
    ));
    assert_eq!(code(&zone, &both), ResponseCode::FormErr);
}

#[test]
fn responses_are_ignored() {
    let zone = zones::zone(1);
    let message = question(FLEET, RecordType::TXT).into_response();
    let packet = message.to_vec().unwrap();
    assert_eq!(respond(&zone, &packet, DnsTransport::Udp, 0), None);
    assert_eq!(respond(&zone, &packet[..11], DnsTransport::Udp, 0), None);
}

#[test]
fn later_edns_version_is_answered_with_badvers() {
    let message = with_edns(question(FLEET, RecordType::TXT), 1232, 1);
    let reply = query(&zones::zone(1), &message);
    // Two codes share the number.
    let code = u16::from(reply.metadata.response_code);
    assert_eq!(code, u16::from(ResponseCode::BADVERS));
    assert_eq!(reply.edns.unwrap().version(), 0);
    assert!(reply.answers.is_empty());
}

#[test]
fn long_response_is_truncated_over_udp() {
    let zone = zones::zone(10);
    let plain = question(FLEET, RecordType::TXT);
    for (message, transport, is_whole) in [
        (plain.clone(), DnsTransport::Udp, false),
        (with_edns(plain.clone(), 700, 0), DnsTransport::Udp, false),
        (with_edns(plain.clone(), 1232, 0), DnsTransport::Udp, true),
        (
            with_edns(plain.clone(), 1232, 0),
            DnsTransport::UdpTruncated,
            false,
        ),
        (plain, DnsTransport::Tcp, true),
    ] {
        let reply = query_over(&zone, &message, transport, 0);
        assert_eq!(reply.truncation, !is_whole, "{transport:?}");
        assert_eq!(reply.answers.len(), if is_whole { 10 } else { 0 });
        assert_eq!(reply.queries.len(), 1);
        assert_eq!(reply.edns.is_some(), message.edns.is_some());
    }
}

#[test]
fn large_fleet_is_rotated() {
    let zone = zones::zone(40);
    let message = question(FLEET, RecordType::TXT);
    let mut seen = HashSet::new();
    for rotation in 0..40 {
        let reply = query_over(&zone, &message, DnsTransport::Tcp, rotation);
        assert_eq!(reply.answers.len(), MAX_TXT_RECORDS);
        assert!(
            seen.insert(reply.answers[0].data.clone().to_string()),
            "{rotation}"
        );
    }
}

#[test]
fn unknown_zone_state_is_answered_with_servfail() {
    let zone = zones::of(&Listing::default());
    let reply = query(&zone, &question(FLEET, RecordType::TXT));
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(!reply.authoritative);
    let foreign = question("example.org.", RecordType::TXT);
    assert_eq!(code(&zone, &foreign), ResponseCode::Refused);
}

/// The counts in a header do not decide how much memory is allocated.
#[test]
fn header_with_large_counts_is_malformed() {
    let zone = zones::zone(1);
    for count in [4, 6, 8, 10] {
        let mut packet = question(FLEET, RecordType::TXT).to_vec().unwrap();
        packet[count] = 0xff;
        let answer = respond(&zone, &packet, DnsTransport::Udp, 0).unwrap();
        assert_eq!(answer.outcome, "formerr");
        assert_eq!(answer.bytes.len(), 12);
    }
}

fn check(packet: &[u8], rotation: usize, relays: usize) {
    let zone = zones::zone(relays);
    for transport in [
        DnsTransport::Udp,
        DnsTransport::UdpTruncated,
        DnsTransport::Tcp,
    ] {
        let Some(answer) = respond(&zone, packet, transport, rotation) else {
            continue;
        };
        let limit = match transport {
            DnsTransport::Udp => MAX_UDP_BYTES,
            DnsTransport::UdpTruncated => MIN_UDP_BYTES,
            DnsTransport::Tcp => MAX_TCP_BYTES,
        };
        assert!(answer.bytes.len() <= limit);
        let reply = Message::from_vec(&answer.bytes).unwrap();
        assert!(reply.answers.len() <= MAX_TXT_RECORDS);
        assert_eq!(reply.message_type, MessageType::Response);
        assert_eq!(answer.bytes[..2], packet[..2]);
        assert!(!reply.recursion_available);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(packet: Vec<u8>, rotation: usize) {
        check(&packet, rotation, 3);
    }

    /// Queries with some bytes changed, removed or added.
    #[test]
    fn no_damaged_query_panics(
        name in prop_oneof![Just(FLEET.to_owned()), "([a-zA-Z0-9_]{1,60}\\.){0,3}fleet\\.example\\.org\\."],
        record_type: u16,
        payload: u16,
        edns: bool,
        changes in proptest::collection::vec((0..80_usize, any::<u8>()), 0..4),
        cut in 0..100_usize,
        more in proptest::collection::vec(any::<u8>(), 0..20),
        rotation: usize,
        relays in 0..40_usize,
    ) {
        let mut message = question(&name, RecordType::from(record_type));
        if edns {
            message = with_edns(message, payload, 0);
        }
        let mut packet = message.to_vec().unwrap();
        for (index, value) in changes {
            if let Some(byte) = packet.get_mut(index) {
                *byte = value;
            }
        }
        packet.truncate(packet.len().saturating_sub(cut.saturating_sub(80)));
        packet.extend(more);
        check(&packet, rotation, relays);
    }
}
