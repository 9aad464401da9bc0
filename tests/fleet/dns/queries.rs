//! Queries of every kind, sent by `dig`.

use test_support::process::Relay;

use crate::dns::{
    FLEET, SEED, ZONE,
    dig::{Record, Reply, dig, is_installed},
    server::{DnsServer, relay},
};

const ADDRESSES: &str = "/ip4/192.0.2.1/tcp/9000,/ip6/2001:db8::1/udp/9000/quic-v1,\
                         /dns4/relay-0.example.org/tcp/443/tls/sni/relays.example.org/ws";

async fn start() -> (Relay, DnsServer) {
    let relay = relay("relay-0", &[("RELAY_EXTERNAL_ADDRESSES", ADDRESSES)]).await;
    let server = DnsServer::of(
        &[&relay],
        &[
            (
                "RELAY_DNS_NS",
                "ns.fleet.test=192.0.2.53+2001:db8::53,dns.example.org",
            ),
            ("RELAY_DNS_TTL", "7s"),
            ("RELAY_IDENTITY_SEED", SEED),
            ("RELAY_FLEET_INSTANCES", "relay-0"),
        ],
    )
    .await;
    (relay, server)
}

fn record(name: &str, ttl: u32, record_type: &str, data: &str) -> Record {
    Record(
        format!("{name}."),
        ttl,
        record_type.to_owned(),
        data.to_owned(),
    )
}

/// Asserts a negative response that only contains the SOA record.
fn assert_denied(reply: &Reply, status: &str) {
    assert_eq!(reply.status, status, "{}", reply.text);
    assert!(reply.answers.is_empty(), "{}", reply.text);
    let [Record(name, 7, soa, data)] = reply.authority.as_slice() else {
        panic!("no SOA in {}", reply.text);
    };
    assert_eq!((name.as_str(), soa.as_str()), ("fleet.test.", "SOA"));
    assert!(
        data.starts_with("ns.fleet.test. hostmaster.fleet.test. "),
        "{data}"
    );
    assert!(data.ends_with(" 7"), "TTL of negative responses: {data}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_answered_over_both_transports() {
    if !is_installed() {
        return;
    }
    let (relay, server) = start().await;
    let id = relay.peer_id;
    let texts = [
        format!(
            "\"dnsaddr=/dns4/relay-0.example.org/tcp/443/tls/sni/relays.example.org/ws/p2p/{id}\""
        ),
        format!("\"dnsaddr=/ip4/192.0.2.1/tcp/9000/p2p/{id}\""),
        format!("\"dnsaddr=/ip6/2001:db8::1/udp/9000/quic-v1/p2p/{id}\""),
    ];
    let texts = |name: &str| texts.each_ref().map(|text| record(name, 7, "TXT", text));
    let own = "relay-0.fleet.test";
    let own_texts = "_dnsaddr.relay-0.fleet.test";
    let cases = [
        (FLEET, "TXT", texts(FLEET).into()),
        (own_texts, "TXT", texts(own_texts).into()),
        (ZONE, "A", vec![record(ZONE, 7, "A", "192.0.2.1")]),
        (ZONE, "AAAA", vec![record(ZONE, 7, "AAAA", "2001:db8::1")]),
        (own, "A", vec![record(own, 7, "A", "192.0.2.1")]),
        (own, "AAAA", vec![record(own, 7, "AAAA", "2001:db8::1")]),
        (
            ZONE,
            "NS",
            vec![
                record(ZONE, 3600, "NS", "dns.example.org."),
                record(ZONE, 3600, "NS", "ns.fleet.test."),
            ],
        ),
        (
            "ns.fleet.test",
            "A",
            vec![record("ns.fleet.test", 3600, "A", "192.0.2.53")],
        ),
        (
            ZONE,
            "ANY",
            vec![record(ZONE, 3600, "HINFO", "\"RFC8482\" \"\"")],
        ),
    ];
    for transport in ["+notcp", "+tcp"] {
        for (name, record_type, expected) in &cases {
            let arguments = [transport, *name, *record_type];
            let reply = dig(server.address, &arguments).await;
            assert_eq!(reply.status, "NOERROR", "{arguments:?}: {}", reply.text);
            assert_eq!(reply.answers, *expected, "{arguments:?}");
            assert_eq!(reply.flags, ["qr", "aa", "rd"], "{arguments:?}");
            assert!(reply.edns.unwrap().ends_with("udp: 1232"), "{arguments:?}");
        }
    }
    let reply = dig(server.address, &[ZONE, "SOA"]).await;
    assert!(
        reply.answers[0].3.ends_with(" 3600 600 86400 7"),
        "{}",
        reply.text
    );
    let reply = dig(server.address, &[ZONE, "NS"]).await;
    let glue = [
        record("ns.fleet.test", 3600, "A", "192.0.2.53"),
        record("ns.fleet.test", 3600, "AAAA", "2001:db8::53"),
    ];
    assert_eq!(reply.additional, glue, "{}", reply.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_names_are_denied_and_other_zones_refused() {
    if !is_installed() {
        return;
    }
    let (_relay, server) = start().await;
    for transport in ["+notcp", "+tcp"] {
        for (name, record_type) in [
            (ZONE, "MX"),
            (ZONE, "TXT"),
            (FLEET, "A"),
            (FLEET, "TYPE65280"),
        ] {
            let reply = dig(server.address, &[transport, name, record_type]).await;
            assert_denied(&reply, "NOERROR");
        }
        for name in [
            "relay-1.fleet.test",
            "x.relay-0.fleet.test",
            "_dnsaddr.x.fleet.test",
        ] {
            for record_type in ["A", "TXT", "ANY"] {
                let reply = dig(server.address, &[transport, name, record_type]).await;
                assert_denied(&reply, "NXDOMAIN");
            }
        }
        for name in [
            "example.org",
            "test",
            ".",
            "xfleet.test",
            "_dnsaddr.bootstrap.libp2p.io",
        ] {
            let reply = dig(server.address, &[transport, name, "TXT"]).await;
            assert_eq!(reply.status, "REFUSED", "{name}: {}", reply.text);
            assert_eq!(reply.flags, ["qr", "rd"], "{name}");
            let nothing = (
                reply.answers.len(),
                reply.authority.len(),
                reply.additional.len(),
            );
            assert_eq!(nothing, (0, 0, 0), "{}", reply.text);
        }
    }
    let reply = dig(server.address, &[ZONE, "AXFR"]).await;
    assert!(reply.text.contains("Transfer failed"), "{}", reply.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_queries_get_the_matching_response_code() {
    if !is_installed() {
        return;
    }
    let (_relay, server) = start().await;
    for (arguments, status) in [
        (
            ["version.bind", "TXT", "CH", "+noedns"].as_slice(),
            "NOTIMP",
        ),
        (&[ZONE, "SOA", "+opcode=notify"], "NOTIMP"),
        (&[ZONE, "SOA", "+opcode=update"], "NOTIMP"),
        (&[ZONE, "SOA", "+opcode=9"], "NOTIMP"),
        (&[ZONE, "SOA", "+edns=1", "+noednsnegotiation"], "BADVERS"),
        (&[ZONE, "SOA", "+header-only"], "FORMERR"),
        (
            &[ZONE, "SOA", "+cookie", "+nsid", "+subnet=192.0.2.0/24"],
            "NOERROR",
        ),
    ] {
        let reply = dig(server.address, arguments).await;
        assert_eq!(reply.status, status, "{arguments:?}: {}", reply.text);
    }
    let reply = dig(server.address, &[ZONE, "SOA", "+dnssec", "+norec"]).await;
    assert_eq!(reply.flags, ["qr", "aa"]);
    assert!(reply.edns.unwrap().contains("flags: do;"));
    let reply = dig(server.address, &[ZONE, "SOA", "+noedns"]).await;
    assert_eq!(reply.edns, None);
}

/// Some resolvers randomize the case of letters and require the same case in the response.
#[tokio::test(flavor = "multi_thread")]
async fn responses_preserve_the_case_of_names() {
    if !is_installed() {
        return;
    }
    let (_relay, server) = start().await;
    let name = "_DnSAdDr.FLEET.tEsT.";
    let reply = dig(server.address, &[name, "TXT"]).await;
    assert!(reply.question.starts_with(name), "{}", reply.text);
    assert_eq!(reply.answers.len(), 3, "{}", reply.text);
    assert!(reply.answers.iter().all(|record| record.0 == name));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_responses_are_sent_over_tcp() {
    if !is_installed() {
        return;
    }
    let address = |port| format!("/ip4/192.0.2.1/tcp/{port}");
    let addresses: Vec<_> = (9000..9016).map(address).collect();
    let addresses = addresses.join(",");
    let relay = relay("relay-0", &[("RELAY_EXTERNAL_ADDRESSES", &addresses)]).await;
    let server = DnsServer::of(&[&relay], &[]).await;
    let name = "_dnsaddr.relay-0.fleet.test";

    let cut = dig(server.address, &[name, "TXT", "+ignore"]).await;
    assert_eq!(cut.flags, ["qr", "aa", "tc", "rd"], "{}", cut.text);
    assert!(cut.answers.is_empty() && !cut.is_tcp);
    let whole = dig(server.address, &[name, "TXT"]).await;
    assert_eq!(whole.answers.len(), 16, "{}", whole.text);
    assert!(whole.is_tcp);
    // The client accepts larger packets, but networks may drop them.
    let cut = dig(server.address, &[name, "TXT", "+ignore", "+bufsize=4096"]).await;
    assert!(cut.flags.contains(&"tc".to_owned()), "{}", cut.text);

    // The fleet's own records refer to other names instead, in one packet.
    let pointer = dig(server.address, &[FLEET, "TXT", "+noedns"]).await;
    let id = relay.peer_id;
    let text = format!("\"dnsaddr=/dnsaddr/relay-0.fleet.test/p2p/{id}\"");
    assert_eq!(pointer.answers, [record(FLEET, 5, "TXT", &text)]);
    assert!(!pointer.is_tcp);
}
