//! The contents of a zone.

use libp2p::PeerId;

use super::*;

/// The zone `fleet.example.org` with this number of relays, each with IPv4 and IPv6 addresses.
pub(crate) fn zone(relays: usize) -> Zone {
    let member = |n: usize| {
        let addresses = [
            format!("/ip4/192.0.2.{}/tcp/9000", n % 250),
            format!("/ip6/2001:db8::{n:x}/udp/9000/quic-v1"),
            "/dns4/relay.example.org/tcp/443/tls/ws".to_owned(),
        ];
        let addresses = addresses.map(|address| address.parse().unwrap()).to_vec();
        Member::new(Some(&format!("relay-{n}")), PeerId::random(), addresses)
    };
    of(&Listing {
        listed: (0..relays).map(member).collect(),
        unlisted: vec![member(1000)],
        state: ZoneState::Current,
    })
}

/// The zone with this list, and with a name server inside it.
pub(crate) fn of(listing: &Listing) -> Zone {
    let dns = DnsConfig {
        servers: vec![
            NameServer {
                name: "a.ns.fleet.example.org".to_owned(),
                addresses: vec!["192.0.2.53".parse().unwrap()],
            },
            NameServer {
                name: "dns.example.org".to_owned(),
                addresses: Vec::new(),
            },
        ],
        ..DnsConfig::default()
    };
    let origin = ZoneConfig::new("fleet.example.org", &dns).unwrap();
    Zone::new(&origin, listing, 7)
}

fn count(zone: &Zone, name: &str, record_type: RecordType) -> Option<usize> {
    let name = LowerName::new(&Name::from_ascii(name).unwrap());
    let Lookup::Records(sets) = zone.lookup(&name) else {
        return None;
    };
    let set = sets.iter().find(|set| set.record_type == record_type);
    Some(set.map_or(0, |set| set.data.len()))
}

#[test]
fn every_name_has_its_records() {
    let zone = zone(2);
    for (name, [soa, ns, txt, a, aaaa]) in [
        ("fleet.example.org.", [1, 2, 0, 2, 2]),
        ("FLEET.Example.ORG.", [1, 2, 0, 2, 2]),
        ("_dnsaddr.fleet.example.org.", [0, 0, 6, 0, 0]),
        ("relay-0.fleet.example.org.", [0, 0, 0, 1, 1]),
        ("_dnsaddr.relay-1.fleet.example.org.", [0, 0, 3, 0, 0]),
        // An unlisted relay keeps its own name.
        ("relay-1000.fleet.example.org.", [0, 0, 0, 1, 1]),
        ("_dnsaddr.relay-1000.fleet.example.org.", [0, 0, 3, 0, 0]),
        ("a.ns.fleet.example.org.", [0, 0, 0, 1, 0]),
        // An empty non-terminal.
        ("ns.fleet.example.org.", [0, 0, 0, 0, 0]),
    ] {
        let types = [
            (RecordType::SOA, soa),
            (RecordType::NS, ns),
            (RecordType::TXT, txt),
            (RecordType::A, a),
            (RecordType::AAAA, aaaa),
        ];
        for (record_type, expected) in types {
            let found = count(&zone, name, record_type);
            assert_eq!(found, Some(expected), "{name} {record_type}");
        }
    }
}

#[test]
fn other_names_do_not_exist() {
    let zone = zone(2);
    let lookup = |name: &str| zone.lookup(&LowerName::new(&Name::from_ascii(name).unwrap()));
    for name in ["x", "relay-2", "x.relay-0", "_dnsaddr.relay-2"] {
        assert_eq!(
            lookup(&format!("{name}.fleet.example.org.")),
            Lookup::NameError
        );
    }
    for name in ["example.org.", "org.", ".", "xfleet.example.org.", "a.b."] {
        assert_eq!(lookup(name), Lookup::OutOfZone);
    }
}

#[test]
fn fleet_without_relays_keeps_its_name() {
    let zone = zone(0);
    let txt = count(&zone, "_dnsaddr.fleet.example.org.", RecordType::TXT);
    assert_eq!(txt, Some(0));
}

#[test]
fn relay_cannot_take_the_name_of_a_name_server() {
    let address = "/ip4/203.0.113.1/tcp/9000".parse().unwrap();
    let listing = Listing {
        listed: vec![Member::new(Some("ns"), PeerId::random(), vec![address])],
        ..Listing::default()
    };
    let dns = DnsConfig {
        servers: vec![NameServer {
            name: "ns.fleet.example.org".to_owned(),
            addresses: vec!["192.0.2.53".parse().unwrap()],
        }],
        ..DnsConfig::default()
    };
    let origin = ZoneConfig::new("fleet.example.org", &dns).unwrap();
    let zone = Zone::new(&origin, &listing, 0);
    let name = LowerName::new(&Name::from_ascii("ns.fleet.example.org.").unwrap());
    let Lookup::Records([set]) = zone.lookup(&name) else {
        panic!("one record set");
    };
    assert_eq!(set.data, [RData::A(A([192, 0, 2, 53].into()))]);
}
