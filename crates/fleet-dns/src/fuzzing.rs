//! The DNS server, with arbitrary packets.

use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType};
use libp2p::{Multiaddr, PeerId};

use crate::{
    config::{DnsConfig, NameServer},
    directory::{Listing, ZoneState},
    dnsaddr::{MAX_UDP_BYTES, Member},
    response::{DnsTransport, respond},
    zone::{Zone, ZoneConfig},
};

/// A zone with some relays and a name server.
static ZONE: LazyLock<Option<Zone>> = LazyLock::new(|| {
    let member = |number: u8| {
        let txt_records = [
            format!("/ip4/192.0.2.{number}/tcp/9000"),
            format!("/ip6/2001:db8::{number:x}/udp/9000/quic-v1"),
        ];
        let addresses = txt_records
            .iter()
            .filter_map(|text| text.parse::<Multiaddr>().ok());
        Member::new(
            Some(&format!("relay-{number}")),
            PeerId::random(),
            addresses.collect(),
        )
    };
    let listing = Listing {
        listed: (0..20).map(member).collect(),
        unlisted: vec![member(200)],
        state: ZoneState::Current,
    };
    let dns = DnsConfig {
        servers: vec![NameServer {
            name: "ns.fleet.example.org".to_owned(),
            addresses: vec![std::net::Ipv4Addr::new(192, 0, 2, 53).into()],
        }],
        ..DnsConfig::default()
    };
    let origin = ZoneConfig::new("fleet.example.org", &dns).ok()?;
    Some(Zone::new(&origin, &listing, 7))
});

/// Responds to the packet `bytes` over each transport. A response is a valid message with the id of the
/// query, and not longer than allowed.
pub fn dns(bytes: &[u8]) {
    let zone = ZONE.as_ref();
    assert!(zone.is_some(), "the zone is valid");
    for (transport, most) in [
        (DnsTransport::Udp, MAX_UDP_BYTES),
        (DnsTransport::UdpTruncated, MAX_UDP_BYTES),
        (DnsTransport::Tcp, usize::from(u16::MAX)),
    ] {
        let Some(answer) = zone.and_then(|zone| respond(zone, bytes, transport, bytes.len()))
        else {
            continue;
        };
        assert!(answer.bytes.len() <= most, "{} bytes", answer.bytes.len());
        assert_eq!(answer.bytes.first_chunk::<2>(), bytes.first_chunk());
        let message = Message::from_vec(&answer.bytes);
        let kind = message.map(|message| message.metadata.message_type);
        assert_eq!(kind.ok(), Some(MessageType::Response));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn dns_invariants_hold() {
        fuzz_support::check_invariants("dns", super::dns);
    }
}
