//! The record sets of the zone: rebuilt when the list of relays changes, and immutable.

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
    config::{DnsConfig, NameServer},
    directory::{Listing, ZoneState},
    dnsaddr::{Member, PREFIX, fleet_txt_records},
};

/// TTL of the name servers' records, in seconds: they change less often than relays.
const SERVER_TTL: u32 = 3600;
/// SOA timers for secondary servers, in seconds. There are none: the zone is not transferred.
const REFRESH: i32 = 3600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;

/// The part of a zone that does not depend on the relays.
#[derive(Clone, Debug)]
pub struct ZoneConfig {
    text: String,
    name: Name,
    servers: Vec<(Name, Vec<IpAddr>)>,
    /// TTL of the records that depend on the relays, in seconds.
    ttl: u32,
}

impl ZoneConfig {
    /// The zone `zone` with the name servers and the TTL of `dns`.
    ///
    /// # Errors
    /// When a name is not a DNS name; those of a loaded configuration are.
    pub fn new(zone: &str, dns: &DnsConfig) -> Result<Self, ProtoError> {
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

/// A zone with its records.
#[derive(Clone, Debug)]
pub struct Zone {
    name: Name,
    origin: LowerName,
    /// Every name that exists, including empty non-terminals.
    nodes: HashMap<LowerName, Vec<RecordSet>>,
    soa: SOA,
    ttl: u32,
    state: ZoneState,
}

/// The records of one name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSet {
    /// The type of all records.
    pub record_type: RecordType,
    /// TTL, in seconds.
    pub ttl: u32,
    /// The records; never empty.
    pub data: Vec<RData>,
}

/// The result of looking up a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The name is outside of the zone.
    OutOfZone,
    /// The name does not exist.
    NameError,
    /// The name exists, with these record sets.
    Records(&'a [RecordSet]),
}

impl Zone {
    /// The zone with the relays of `listing`. `serial` grows from each version to the next.
    pub fn new(origin: &ZoneConfig, listing: &Listing, serial: u32) -> Self {
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
            state: listing.state,
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
        zone.add_texts(apex, fleet_txt_records(&origin.text, &listing.listed));
        zone.add_addresses(apex, origin.ttl, listing.listed.iter().flat_map(ips));
        for member in listing.listed.iter().chain(&listing.unlisted) {
            // Labels are validated by Member::new.
            if let Ok(name) = apex.prepend_label(member.label()) {
                zone.add_addresses(&name, origin.ttl, ips(member));
                zone.add_texts(&name, member.txt_records());
            }
        }
        zone
    }

    /// Looks up `name`.
    pub fn lookup(&self, name: &LowerName) -> Lookup<'_> {
        if !self.origin.zone_of(name) {
            return Lookup::OutOfZone;
        }
        let node = self.nodes.get(name);
        node.map_or(Lookup::NameError, |sets| Lookup::Records(sets))
    }

    /// The apex of the zone.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The SOA record of negative responses.
    pub fn soa(&self) -> &SOA {
        &self.soa
    }

    /// TTL of the records that depend on the relays, in seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Whether the list of relays is up to date.
    pub fn state(&self) -> ZoneState {
        self.state
    }

    fn add_texts(&mut self, name: &Name, txt_records: Vec<String>) {
        if let Ok(name) = name.prepend_label(PREFIX) {
            // The name exists even while there are no records.
            self.node(&name);
            let data = txt_records
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

    /// Adds a record set, unless the name has one of that type: a relay cannot replace the records of
    /// a name server.
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

    /// The node of `name`; creates it and the nodes above it.
    fn node(&mut self, name: &Name) -> &mut Vec<RecordSet> {
        let mut above = LowerName::new(&name.base_name());
        while self.origin.zone_of(&above) && above != self.origin {
            self.nodes.entry(above.clone()).or_default();
            above = above.base_name();
        }
        self.nodes.entry(LowerName::new(name)).or_default()
    }
}

/// The IP addresses of a relay that can be dialled without DNS.
fn ips(member: &Member) -> impl Iterator<Item = IpAddr> {
    let first = |address: &Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => Some(IpAddr::V6(ip)),
        _ => None,
    };
    member.addresses().iter().filter_map(first)
}

#[cfg(test)]
pub(super) mod tests;
