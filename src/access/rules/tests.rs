use std::net::{Ipv4Addr, Ipv6Addr};

use circuit_relay::Transport;
use proptest::prelude::*;

use super::*;

const PEERS: [&str; 3] = [
    "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    "12D3KooWRBhwfeP2Y4TCx1SM6s9rUoHhR5STiGwxBhgFRcw3UERE",
    "12D3KooWHdiAxVd8uMQR1hGWXccidmfCwLqcMpGwR6QcTP6QRMuD",
];

fn peer(number: usize) -> PeerId {
    PEERS[number].parse().unwrap()
}

fn from(peer: PeerId, ip: &str) -> Requester {
    Requester {
        peer,
        ip: (!ip.is_empty()).then(|| ip.parse().unwrap()),
        transport: Transport::Tcp,
    }
}

/// Rules as in a file, with `peerN` in place of peer ids.
fn rules(lines: &[&str]) -> Rules {
    let mut text = lines.join("\n");
    for (number, id) in PEERS.iter().enumerate() {
        text = text.replace(&format!("peer{number}"), id);
    }
    crate::access::parse_rules(&text)
        .unwrap()
        .into_iter()
        .collect()
}

fn why(result: Result<(), Verdict>) -> String {
    result.map_or_else(|verdict| verdict.to_string(), |()| "fine".to_owned())
}

#[test]
fn without_rules_everything_is_allowed() {
    let rules = rules(&[]);
    assert_eq!(rules.may_reserve(&from(peer(0), "")), Ok(()));
    assert_eq!(rules.may_connect(&from(peer(0), "::1"), &peer(1)), Ok(()));
    assert_eq!(rules.rule_count(), 0);
}

#[test]
fn deny_rules_take_precedence() {
    let rules = rules(&[
        "allow reserve peer0",
        "allow reserve 192.0.2.0/24",
        "deny reserve 192.0.2.64/26",
        "deny reserve peer1",
        "deny reserve 192.0.2.66",
    ]);
    let reserve = |number, ip| why(rules.may_reserve(&from(peer(number), ip)));
    assert_eq!(reserve(0, ""), "fine");
    assert_eq!(reserve(0, "198.51.100.1"), "fine");
    assert_eq!(reserve(0, "192.0.2.65"), "RELAY_ACCESS_FILE, line 3");
    assert_eq!(reserve(0, "192.0.2.66"), "RELAY_ACCESS_FILE, line 5");
    assert_eq!(reserve(1, "192.0.2.1"), "RELAY_ACCESS_FILE, line 4");
    assert_eq!(reserve(2, "192.0.2.1"), "fine");
    assert_eq!(reserve(2, "::ffff:192.0.2.1"), "fine");
    assert_eq!(reserve(2, "192.0.3.1"), "not among allow reserve");
    assert_eq!(reserve(2, ""), "not among allow reserve");
}

#[test]
fn scopes_have_separate_lists() {
    let rules = rules(&["allow connect peer0", "deny target peer2"]);
    let connect =
        |source, target| why(rules.may_connect(&from(peer(source), "::1"), &peer(target)));
    assert_eq!(connect(0, 1), "fine");
    assert_eq!(connect(1, 0), "not among allow connect");
    assert_eq!(connect(0, 2), "RELAY_ACCESS_FILE, line 2");
    assert_eq!(rules.may_reserve(&from(peer(2), "::1")), Ok(()));
}

#[test]
fn allow_list_of_none_denies_everything() {
    let rules = rules(&["allow target none"]);
    let connect = why(rules.may_connect(&from(peer(0), ""), &peer(1)));
    assert_eq!(connect, "not among allow target");
    assert_eq!(rules.may_reserve(&from(peer(0), "")), Ok(()));
}

#[test]
fn ipv6_networks_do_not_match_ipv4() {
    let rules = rules(&["deny reserve ::/0"]);
    let reserve = |ip| rules.may_reserve(&from(peer(0), ip)).is_ok();
    assert!(!reserve("2001:db8::1"));
    assert!(reserve("192.0.2.1") && reserve("::ffff:192.0.2.1") && reserve(""));
}

#[test]
fn verdict_names_the_variable_and_item() {
    let rule = |scope, number| Rule {
        scope,
        effect: Effect::Deny,
        subject: Subject::Peer(peer(0)),
        origin: Origin::Item(number),
    };
    let rules: Rules = [rule(Scope::Reserve, 2), rule(Scope::Target, 1)]
        .into_iter()
        .collect();
    let reserve = why(rules.may_reserve(&from(peer(0), "")));
    assert_eq!(reserve, "RELAY_ACCESS_RESERVE_DENY, item 2");
    let connect = why(rules.may_connect(&from(peer(1), ""), &peer(0)));
    assert_eq!(connect, "RELAY_ACCESS_TARGET_DENY, item 1");
}

fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0..=32u8)
        .prop_map(|(ip, prefix)| IpNet::new(IpAddr::from(ip.to_be_bytes()), prefix));
    let v6 = (any::<u128>(), 0..=128u8)
        .prop_map(|(ip, prefix)| IpNet::new(IpAddr::from(ip.to_be_bytes()), prefix));
    prop_oneof![v4, v6].prop_map(|network| network.unwrap().trunc())
}

/// An address of the network of this index, or any address.
fn address(networks: &[IpNet], at: usize, bits: u128) -> IpAddr {
    let host = bits.to_be_bytes();
    match networks.get(at) {
        Some(IpNet::V4(v4)) => {
            let [.., a, b, c, d] = host;
            let host = u32::from_be_bytes([a, b, c, d]) & u32::from(v4.hostmask());
            Ipv4Addr::from_bits(u32::from(v4.network()) | host).into()
        }
        Some(IpNet::V6(v6)) => {
            let host = bits & u128::from(v6.hostmask());
            Ipv6Addr::from_bits(u128::from(v6.network()) | host).into()
        }
        None => IpAddr::from(host),
    }
}

proptest! {
    /// A lookup finds the most specific network that contains the address.
    #[test]
    fn most_specific_network_is_found(
        networks in proptest::collection::vec(network(), 0..40),
        at in 0..10usize,
        bits: u128,
    ) {
        let ip = address(&networks, at, bits).to_canonical();
        let rules: Rules = (1..).zip(&networks).map(|(number, network)| Rule {
            scope: Scope::Reserve,
            effect: Effect::Deny,
            subject: Subject::Network(*network),
            origin: Origin::Item(number),
        }).collect();
        let fits = networks.iter().filter(|network| network.contains(&ip));
        let closest = fits.map(IpNet::prefix_len).max();
        let requester = Requester { peer: peer(0), ip: Some(ip), transport: Transport::Quic };
        let found = match rules.may_reserve(&requester) {
            Ok(()) => None,
            Err(Verdict::Denied(Scope::Reserve, Origin::Item(number))) => {
                let network = networks[number as usize - 1];
                prop_assert!(network.contains(&ip));
                Some(network.prefix_len())
            }
            Err(other) => panic!("{other}"),
        };
        prop_assert_eq!(found, closest);
    }
}
