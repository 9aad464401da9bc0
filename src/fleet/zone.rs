//! The record sets of the zone: built when the list of relays changes, and never changed.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use hickory_proto::{
    ProtoError,
    rr::{
        LowerName, Name, RData, RecordType,
        rdata::{A, AAAA, NS, SOA, TXT},
    },
};
use libp2p::{Multiaddr, multiaddr::Protocol};

use super::{
    directory::{Listing, Standing},
    dnsaddr::{Member, PREFIX, fleet_texts},
};
use crate::config::{self, NameServer};

/// How long name servers may be cached, in seconds: they do not come and go like relays.
const SERVER_TTL: u32 = 3600;
/// How long secondary servers wait, in seconds. There are none: the zone is not transferred.
const REFRESH: i32 = 3600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;

/// What of a zone does not depend on the relays.
#[derive(Clone, Debug)]
pub struct Origin {
    text: String,
    name: Name,
    servers: Vec<(Name, Vec<IpAddr>)>,
    /// Of what depends on the relays, in seconds.
    ttl: u32,
}

impl Origin {
    /// The zone of this name.
    ///
    /// # Errors
    /// When a name is no DNS name; those of a loaded configuration are.
    pub fn new(zone: &str, dns: &config::Dns) -> Result<Self, ProtoError> {
        let absolute = |name: &str| Name::from_ascii(format!("{name}."));
        let mut servers = Vec::new();
        for NameServer { name, addresses } in &dns.servers {
            servers.push((absolute(name)?, addresses.clone()));
        }
        if servers.is_empty() {
            servers.push((absolute(&format!("ns.{zone}"))?, Vec::new()));
        }
        Ok(Self {
            text: zone.to_owned(),
            name: absolute(zone)?,
            servers,
            ttl: u32::try_from(dns.ttl.as_secs()).unwrap_or(u32::MAX),
        })
    }
}

/// A zone and all that it holds.
#[derive(Clone, Debug)]
pub struct Zone {
    name: Name,
    origin: LowerName,
    /// Every name that exists, those without records of their own included.
    nodes: HashMap<LowerName, Vec<RecordSet>>,
    soa: SOA,
    ttl: u32,
    standing: Standing,
}

/// The records of one name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSet {
    /// The type of them all.
    pub record_type: RecordType,
    /// How long they may be cached, in seconds.
    pub ttl: u32,
    /// Never empty.
    pub data: Vec<RData>,
}

/// What a zone says of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The name belongs to another zone.
    Foreign,
    /// There is no such name.
    Nothing,
    /// The name is there, and has these records of all types.
    Node(&'a [RecordSet]),
}

impl Zone {
    /// The zone with these relays in it. `serial` grows from each version to the next.
    pub fn new(origin: &Origin, listing: &Listing, serial: u32) -> Self {
        let apex = &origin.name;
        let primary = origin.servers.first().map_or(apex, |(name, _)| name);
        let soa = SOA::new(
            primary.clone(),
            apex.prepend_label("hostmaster")
                .unwrap_or_else(|_| apex.clone()),
            serial,
            REFRESH,
            RETRY,
            EXPIRE,
            origin.ttl,
        );
        let mut zone = Self {
            name: apex.clone(),
            origin: apex.into(),
            nodes: HashMap::new(),
            soa: soa.clone(),
            ttl: origin.ttl,
            standing: listing.standing,
        };
        zone.add(apex, origin.ttl, vec![RData::SOA(soa)]);
        let servers = origin.servers.iter();
        let servers = servers.map(|(name, _)| RData::NS(NS(name.clone())));
        zone.add(apex, SERVER_TTL, servers.collect());
        for (name, addresses) in &origin.servers {
            if apex.zone_of(name) {
                zone.add_addresses(name, SERVER_TTL, addresses.iter().copied());
            }
        }
        zone.add_texts(apex, fleet_texts(&origin.text, &listing.listed));
        zone.add_addresses(apex, origin.ttl, listing.listed.iter().flat_map(ips));
        for member in listing.listed.iter().chain(&listing.unlisted) {
            // Labels are checked where they are made.
            if let Ok(name) = apex.prepend_label(member.label()) {
                zone.add_addresses(&name, origin.ttl, ips(member));
                zone.add_texts(&name, member.texts());
            }
        }
        zone
    }

    /// What the zone says of `name`.
    pub fn find(&self, name: &LowerName) -> Found<'_> {
        if !self.origin.zone_of(name) {
            return Found::Foreign;
        }
        let node = self.nodes.get(name);
        node.map_or(Found::Nothing, |sets| Found::Node(sets))
    }

    /// Where the zone begins.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The record that answers carry when they carry nothing else.
    pub fn soa(&self) -> &SOA {
        &self.soa
    }

    /// How long what depends on the relays may be cached, in seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Whether the list of relays is good.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    fn add_texts(&mut self, name: &Name, texts: Vec<String>) {
        if let Ok(name) = name.prepend_label(PREFIX) {
            // The name exists while the zone has such relays at all, whether one is there or not.
            self.node(&name);
            let data = texts
                .into_iter()
                .map(|text| RData::TXT(TXT::new(vec![text])));
            self.add(&name, self.ttl, data.collect());
        }
    }

    fn add_addresses(&mut self, name: &Name, ttl: u32, ips: impl Iterator<Item = IpAddr>) {
        self.node(name);
        let ips: BTreeSet<_> = ips.collect();
        let v4 = ips.iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(RData::A(A(*ip))),
            IpAddr::V6(_) => None,
        });
        let v6 = ips.iter().filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some(RData::AAAA(AAAA(*ip))),
            IpAddr::V4(_) => None,
        });
        self.add(name, ttl, v4.collect());
        self.add(name, ttl, v6.collect());
    }

    /// The first records of a name and type stay: a relay cannot take a name server's name.
    fn add(&mut self, name: &Name, ttl: u32, data: Vec<RData>) {
        let Some(record_type) = data.first().map(RData::record_type) else {
            return;
        };
        let sets = self.node(name);
        if sets.iter().all(|set| set.record_type != record_type) {
            sets.push(RecordSet {
                record_type,
                ttl,
                data,
            });
        }
    }

    /// The node of `name`, which exists from now on together with those above it.
    fn node(&mut self, name: &Name) -> &mut Vec<RecordSet> {
        let mut above = LowerName::new(&name.base_name());
        while self.origin.zone_of(&above) && above != self.origin {
            self.nodes.entry(above.clone()).or_default();
            above = above.base_name();
        }
        self.nodes.entry(LowerName::new(name)).or_default()
    }
}

/// The IP addresses at which a relay can be dialled without a name.
fn ips(member: &Member) -> impl Iterator<Item = IpAddr> {
    let first = |address: &Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => Some(IpAddr::V6(ip)),
        _ => None,
    };
    member.addresses().iter().filter_map(first)
}

#[cfg(test)]
pub(super) mod tests {
    use libp2p::PeerId;

    use super::*;
    use crate::config::Config;

    /// The zone `fleet.example.org` with so many relays, each with an address of IPv4 and IPv6.
    pub(in crate::fleet) fn zone(relays: usize) -> Zone {
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
            standing: Standing::Current,
        })
    }

    /// The zone with this list, and a name server inside it.
    pub(in crate::fleet) fn of(listing: &Listing) -> Zone {
        let mut dns = Config::default().dns;
        dns.servers = vec![
            NameServer {
                name: "a.ns.fleet.example.org".to_owned(),
                addresses: vec!["192.0.2.53".parse().unwrap()],
            },
            NameServer {
                name: "dns.example.org".to_owned(),
                addresses: Vec::new(),
            },
        ];
        let origin = Origin::new("fleet.example.org", &dns).unwrap();
        Zone::new(&origin, listing, 7)
    }

    fn count(zone: &Zone, name: &str, record_type: RecordType) -> Option<usize> {
        let name = LowerName::new(&Name::from_ascii(name).unwrap());
        let Found::Node(sets) = zone.find(&name) else {
            return None;
        };
        let set = sets.iter().find(|set| set.record_type == record_type);
        Some(set.map_or(0, |set| set.data.len()))
    }

    #[test]
    fn every_name_has_what_belongs_to_it() {
        let zone = zone(2);
        for (name, [soa, ns, txt, a, aaaa]) in [
            ("fleet.example.org.", [1, 2, 0, 2, 2]),
            ("FLEET.Example.ORG.", [1, 2, 0, 2, 2]),
            ("_dnsaddr.fleet.example.org.", [0, 0, 6, 0, 0]),
            ("relay-0.fleet.example.org.", [0, 0, 0, 1, 1]),
            ("_dnsaddr.relay-1.fleet.example.org.", [0, 0, 3, 0, 0]),
            // One that is not listed keeps its own name.
            ("relay-1000.fleet.example.org.", [0, 0, 0, 1, 1]),
            ("_dnsaddr.relay-1000.fleet.example.org.", [0, 0, 3, 0, 0]),
            ("a.ns.fleet.example.org.", [0, 0, 0, 1, 0]),
            // Something is below it.
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
    fn other_names_are_not_there() {
        let zone = zone(2);
        let find = |name: &str| zone.find(&LowerName::new(&Name::from_ascii(name).unwrap()));
        for name in ["x", "relay-2", "x.relay-0", "_dnsaddr.relay-2"] {
            assert_eq!(find(&format!("{name}.fleet.example.org.")), Found::Nothing);
        }
        for name in ["example.org.", "org.", ".", "xfleet.example.org.", "a.b."] {
            assert_eq!(find(name), Found::Foreign);
        }
    }

    #[test]
    fn a_fleet_without_relays_has_its_name_all_the_same() {
        let zone = zone(0);
        let txt = count(&zone, "_dnsaddr.fleet.example.org.", RecordType::TXT);
        assert_eq!(txt, Some(0));
    }

    #[test]
    fn a_relay_cannot_take_a_name_server_s_name() {
        let address = "/ip4/203.0.113.1/tcp/9000".parse().unwrap();
        let listing = Listing {
            listed: vec![Member::new(Some("ns"), PeerId::random(), vec![address])],
            ..Listing::default()
        };
        let mut dns = Config::default().dns;
        dns.servers = vec![NameServer {
            name: "ns.fleet.example.org".to_owned(),
            addresses: vec!["192.0.2.53".parse().unwrap()],
        }];
        let origin = Origin::new("fleet.example.org", &dns).unwrap();
        let zone = Zone::new(&origin, &listing, 0);
        let name = LowerName::new(&Name::from_ascii("ns.fleet.example.org.").unwrap());
        let Found::Node([set]) = zone.find(&name) else {
            panic!("one record set");
        };
        assert_eq!(set.data, [RData::A(A([192, 0, 2, 53].into()))]);
    }
}
