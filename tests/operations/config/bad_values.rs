//! Bad values of every variable, and the exact error line of each.

use super::*;

const LISTEN: &str = "allowed: a comma-separated list of `/ip4/…/tcp/…`, `/ip4/…/tcp/…/ws` \
     and `/ip4/…/udp/…/quic-v1`, or the same with `/ip6`";
const EXTERNAL: &str = "allowed: a comma-separated list of at most 16 multiaddrs that start \
     with `/ip4`, `/ip6`, `/dns`, `/dns4` or `/dns6` and go on with `/tcp/…`, `/tcp/…/ws`, \
     `/tcp/…/tls/ws`, `/tcp/…/tls/sni/…/ws`, `/tcp/…/wss` or `/udp/…/quic-v1`";
const COUNT: &str = "allowed: a whole number, 0 = unlimited";
const SIZE: &str = "allowed: a size such as `100MB`, `64KiB` or plain bytes, 0 = unlimited";
const SPAN: &str = "allowed: a duration such as `90s` or `1h 30m`";

/// Asserts the error line for a bad value: `NAME: "value" problem; allowed`.
fn check(name: &str, value: &str, problem: &str, allowed: &str) {
    assert_eq!(
        errors(&[(name, value)]),
        format!("{name}: {value:?} {problem}; {allowed}")
    );
}

#[test]
fn listen_addresses() {
    let check = |value: &str, problem: &str| {
        check("RELAY_LISTEN_ADDRESSES", value, problem, LISTEN);
    };
    check(",", "contains no address");
    check("9000", "is not a multiaddr (invalid multiaddr)");
    for item in [
        "/ip4/0.0.0.0/udp/9000",
        "/ip4/0.0.0.0/tcp/9000/tls/ws",
        "/ip4/0.0.0.0/tcp/9000/wss",
        "/dns/relay.example/tcp/9000",
        "/ip4/0.0.0.0/tcp/9000/x-parity-ws/%2Fpath",
        "/memory/1",
    ] {
        let problem = "is not a listen address that the relay supports";
        check(item, problem);
        let list = format!("{item},");
        check(&list, &format!("contains \"{item}\", which {problem}"));
    }
    for (first, second) in [
        ("/ip4/0.0.0.0/tcp/9000", "/ip4/0.0.0.0/tcp/9000"),
        ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/0"),
        ("/ip4/0.0.0.0/tcp/9000", "/ip4/0.0.0.0/tcp/9000/ws"),
    ] {
        let problem = "uses the port of another item";
        check(
            &format!("{first},{second}"),
            &format!("contains \"{second}\", which {problem}"),
        );
    }
}

#[test]
fn external_addresses() {
    let check = |value: &str, problem: &str| {
        check("RELAY_EXTERNAL_ADDRESSES", value, problem, EXTERNAL);
    };
    let item = |item: &str, problem: &str| {
        check(item, problem);
        let list = format!("/ip4/192.0.2.9/tcp/9,{item}");
        check(&list, &format!("contains \"{item}\", which {problem}"));
    };
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let with_peer = format!("/ip4/192.0.2.1/tcp/9000/p2p/{peer}");
    item(
        &with_peer,
        "must not end in a peer id: the relay adds its own",
    );
    item("/ip4/0.0.0.0/tcp/9000", "is the unspecified address");
    item("/ip6/::/udp/9000/quic-v1", "is the unspecified address");
    item(
        "/ip4/192.0.2.1/tcp/0",
        "has port 0, which cannot be dialled",
    );
    item(
        "/ip4/192.0.2.1/udp/9000",
        "is not an address that clients can dial",
    );
    item(
        "/ip4/192.0.2.1/udp/9000/quic",
        "is not an address that clients can dial",
    );
    item(
        "/dnsaddr/relay.example",
        "is not an address that clients can dial",
    );
    item(
        "/dns/relay.example/tcp/1/x-parity-ws/%2Fa",
        "is not an address that clients can dial",
    );
    for address in [
        "/ip4/192.0.2.1/tcp/443/sni/relay.example/ws",
        "/ip4/192.0.2.1/tcp/443/tls/sni/relay.example",
        "/ip4/192.0.2.1/tcp/443/tls",
    ] {
        item(address, "is not an address that clients can dial");
    }
    item(
        "/ip4/192.0.2.1/tcp/443/tls/sni/re lay/ws",
        "has no valid DNS name after `/sni`",
    );
    item("/dns/relay..example/tcp/9000", "has no valid DNS name");
    item("/dns/re lay/tcp/9000", "has no valid DNS name");
    let long = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(61),
    ]
    .join(".");
    item(&format!("/dns/{long}/tcp/9000"), "is longer than 255 bytes");
    let twice = "/ip4/192.0.2.1/tcp/9000,/ip4/192.0.2.1/tcp/9000";
    check(
        twice,
        "contains \"/ip4/192.0.2.1/tcp/9000\", which occurs twice",
    );
    item_list();
}

/// Limits of the whole list.
fn item_list() {
    let list =
        |item: fn(u16) -> String, len: u16| (1..=len).map(item).collect::<Vec<_>>().join(",");
    let short = |port: u16| format!("/ip4/192.0.2.1/tcp/{port}");
    let name = "RELAY_EXTERNAL_ADDRESSES";
    assert_eq!(
        config(&[(name, &list(short, 16))]).external_addresses.len(),
        16
    );
    check(
        name,
        &list(short, 17),
        "contains more than 16 addresses",
        EXTERNAL,
    );
    let long = |port: u16| format!("/dns/{0}.{0}.{0}.{0}/tcp/{port}", "a".repeat(59));
    let error = errors(&[(name, &list(long, 11))]);
    let problem = "takes 2695 bytes in total, more than the 2560 that fit into a response";
    assert!(error.contains(problem), "{error}");
}

#[test]
fn placeholders() {
    let name = "RELAY_EXTERNAL_ADDRESSES";
    let problem = "has an unknown placeholder; there are `{instance}` and `{index}`";
    check(name, "/dns/{pod}/tcp/1", problem, EXTERNAL);
    check(
        name,
        "/dns/{instance/tcp/1",
        "has a `{` without a `}`",
        EXTERNAL,
    );
    let pairs = [("RELAY_INSTANCE", "relay"), (name, "/dns/a/tcp/900{index}")];
    let error = errors(&pairs);
    let problem = "uses `{index}`, but the instance name `relay` ends in no number";
    assert!(error.contains(problem), "{error}");
    let pairs = [
        ("RELAY_INSTANCE", "relay_1"),
        (name, "/dns/{instance}/tcp/0"),
    ];
    let error = errors(&pairs);
    let problem = "\"/dns/{instance}/tcp/0\" expands to \"/dns/relay_1/tcp/0\", which has ";
    assert!(error.contains(problem), "{error}");
}

#[test]
fn names_and_choices() {
    let allowed = "allowed: 1 to 253 of the characters A-Z a-z 0-9 . _ -";
    check(
        "RELAY_INSTANCE",
        "a b",
        "has a character that is not allowed",
        allowed,
    );
    check("RELAY_INSTANCE", &"a".repeat(254), "is too long", allowed);
    let allowed = "allowed: `auto` or `text` or `json`";
    check(
        "RELAY_LOG_FORMAT",
        "xml",
        "is not one of the choices",
        allowed,
    );
    let allowed = "allowed: `pseudonym` or `full`";
    check(
        "RELAY_PEER_IDS",
        "none",
        "is not one of the choices",
        allowed,
    );
    let allowed = "allowed: an IP address and a port such as `127.0.0.1:8080` or \
                   `[::]:8080`, empty = off";
    let no_address = "has no IP address; write `0.0.0.0:8080` for all interfaces, or \
                      `127.0.0.1:8080` for this machine only";
    let no_port = "has no port; write one behind it, as in `0.0.0.0:8080`";
    for (value, problem) in [
        ("8080", no_address),
        (":8080", no_address),
        (
            "localhost:8080",
            "has a name instead of an IP address; write `127.0.0.1:8080`",
        ),
        ("0.0.0.0", no_port),
        ("http://127.0.0.1:8080", "is not an IP address and a port"),
    ] {
        check("RELAY_ADMIN_ADDRESS", value, problem, allowed);
    }
}

#[test]
fn peer_stats() {
    let check = |value: &str, problem: &str| {
        let allowed = "allowed: a whole number up to 16384, 0 = off";
        check("RELAY_PEER_STATS_CAPACITY", value, problem, allowed);
    };
    check("16385", "is too large");
    check("99999999999999999999", "is too large");
    check("many", "is not a whole number");
    check("-1", "is not a whole number");
}

#[test]
fn counts() {
    for name in [
        "RELAY_MAX_RESERVATIONS",
        "RELAY_MAX_RESERVATIONS_PER_PEER",
        "RELAY_MAX_RESERVATIONS_PER_IP",
        "RELAY_MAX_CIRCUITS",
        "RELAY_MAX_CIRCUITS_PER_PEER",
    ] {
        for value in ["many", "-1", "1.5", "1k"] {
            check(name, value, "is not a whole number", COUNT);
        }
        check(name, "99999999999999999999", "is too large", COUNT);
    }
}

#[test]
fn rates() {
    for (value, problem) in [
        ("many", "is not a burst and a rate"),
        ("20/s", "is not a burst and a rate"),
        ("500+20", "is not a burst and a rate"),
        ("500+20/d", "has a unit other than s, m and h"),
        ("500+20/", "has a unit other than s, m and h"),
        ("0+20/s", "has a part that is 0"),
        ("1+0/s", "has a part that is 0"),
        ("-1+20/s", "has a part that is not a whole number"),
        ("1000001+1/s", "has a part that is too large"),
        ("1+99999999999999999999/s", "has a part that is too large"),
    ] {
        let allowed = "allowed: a burst and a sustained rate such as `500+20/s` (a burst of 500, then 20 \
                       per second; also `/m` and `/h`), numbers up to 1000000, 0 = unlimited";
        check("RELAY_RATE_CIRCUITS_PER_IP", value, problem, allowed);
    }
}

#[test]
fn proxies() {
    for (value, problem) in [
        (
            "10.0.0.1/8",
            "has bits beyond its prefix; the network is 10.0.0.0/8",
        ),
        (
            "none",
            "is not an IP address or a network such as 192.0.2.0/24",
        ),
        (
            "12D3KooW",
            "is not an IP address or a network such as 192.0.2.0/24",
        ),
        (
            "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
            "is a peer id, not a network",
        ),
        (
            "10.0.0.0/33",
            "is not an IP address or a network such as 192.0.2.0/24",
        ),
    ] {
        let allowed = "allowed: a comma-separated list of at most 64 IP addresses and networks \
                       such as `10.0.0.0/8`";
        check("RELAY_TRUSTED_PROXIES", value, problem, allowed);
        let list = format!("10.0.0.0/8,{value}");
        let problem = format!("contains \"{value}\", which {problem}");
        check("RELAY_TRUSTED_PROXIES", &list, &problem, allowed);
        let share = errors(&[("RELAY_PREFIX_SHARES", &format!("{value}=1/2"))]);
        if value != "10.0.0.1/8" {
            assert!(share.contains("begins with a text that is "), "{share}");
        }
    }
}

#[test]
fn sizes() {
    let check = |value, problem| check("RELAY_MAX_CIRCUIT_BYTES", value, problem, SIZE);
    check("lots", "is not a size");
    check("-1MB", "is not a size");
    check("1XB", "is not a size");
    check("0.1B", "is less than one byte");
    check("99999999999EB", "is too large");
    check("18446744073709551615", "is too large");
}

#[test]
fn bandwidths() {
    let written = "such as `10MB`, `512KiB` or plain bytes, from 1KB";
    let rate = format!("allowed: a size per second {written}, 0 = unlimited");
    let burst = format!("allowed: a size {written}, 0 = the bytes of one second, at least 64KiB");
    for place in ["", "_PER_PEER", "_PER_CIRCUIT"] {
        for (what, allowed) in [("BANDWIDTH", &rate), ("BURST", &burst)] {
            let name = format!("RELAY_MAX_{what}{place}");
            let check = |value, problem| check(&name, value, problem, allowed);
            check("10", "is less than 1KB");
            check("999", "is less than 1KB");
            check("10MB/s", "is not a size");
            check("10Mbit", "is not a size");
            check("0.1B", "is less than one byte");
        }
    }
}

#[test]
fn autonat_versions() {
    let allowed = "allowed: a list of `v1` and `v2`; empty or `none` = off";
    let check = |value, problem| check("RELAY_AUTONAT", value, problem, allowed);
    check("v3", "is no version of AutoNAT");
    check(
        "v1,none",
        "contains \"none\", which is no version of AutoNAT",
    );
    check("v1,V1", "contains \"V1\", which occurs twice");
    check(",", "contains nothing");
}

#[test]
fn durations() {
    for (name, bounds) in [
        ("RELAY_RESERVATION_TTL", ", at least 30s"),
        ("RELAY_MAX_CIRCUIT_DURATION", ", at least 1s, 0 = unlimited"),
        ("RELAY_IDLE_TIMEOUT", ", at least 5s"),
        ("RELAY_PEER_STATS_WINDOW", ", at least 1s"),
        ("RELAY_STATS_INTERVAL", ", at least 1s, 0 = off"),
        ("RELAY_DRAIN_DELAY", ""),
        ("RELAY_DRAIN_WINDOW", ""),
        ("RELAY_DRAIN_TIMEOUT", ""),
    ] {
        let check = |value, problem| check(name, value, problem, &format!("{SPAN}{bounds}"));
        check("90", "has no unit; add one, such as s, m or h");
        check("137years", "is longer than 136 years");
        check("soon", "is not a duration (expected number at 0)");
        check("-1s", "is not a duration (expected number at 0)");
    }
    check(
        "RELAY_RESERVATION_TTL",
        "29s",
        "is too short",
        &format!("{SPAN}, at least 30s"),
    );
    check(
        "RELAY_RESERVATION_TTL",
        "0",
        "is too short",
        &format!("{SPAN}, at least 30s"),
    );
    check(
        "RELAY_IDLE_TIMEOUT",
        "4999ms",
        "is too short",
        &format!("{SPAN}, at least 5s"),
    );
    let allowed = format!("{SPAN}, at least 1s, 0 = unlimited");
    check(
        "RELAY_MAX_CIRCUIT_DURATION",
        "999ms",
        "is too short",
        &allowed,
    );
}

#[test]
fn invalid_unicode() {
    let value = OsString::from_vec(vec![b'1', 0xff]);
    let pairs = [(OsString::from("RELAY_MAX_CIRCUITS"), value.clone())];
    let error = Config::from_env(pairs).unwrap_err();
    assert_eq!(
        error.to_string(),
        "RELAY_MAX_CIRCUITS: the value is not valid UTF-8"
    );
    let others = [(OsString::from("LESSOPEN"), value)];
    assert!(Config::from_env(others).is_ok());
}

#[test]
fn all_errors_are_reported_in_one_line_each() {
    let text = errors(&[
        ("RELAY_LISTEN_ADDRESSES", "nowhere"),
        ("RELAY_EXTERNAL_ADDRESSES", "nowhere"),
        ("RELAY_INSTANCE", "two\nlines"),
        ("RELAY_IDENTITY_SEED", "short"),
        ("RELAY_MAX_RESERVATIONS", "many"),
        ("RELAY_RESERVATION_TTL", "1"),
        ("RELAY_MAX_CIRCUIT_BYTES", "big"),
        ("RELAY_LOG_FORMAT", "\u{1b}[31m"),
        ("RELAY_ADMIN_ADDRESS", "here"),
        ("RELAY_NONSENSE\n", "value"),
    ]);
    let names: Vec<_> = text
        .lines()
        .map(|line| line.split_once(": ").unwrap().0)
        .collect();
    assert_eq!(
        names,
        [
            "RELAY_NONSENSE\\n",
            "RELAY_LISTEN_ADDRESSES",
            "RELAY_EXTERNAL_ADDRESSES",
            "RELAY_INSTANCE",
            "RELAY_IDENTITY_SEED",
            "RELAY_MAX_RESERVATIONS",
            "RELAY_RESERVATION_TTL",
            "RELAY_MAX_CIRCUIT_BYTES",
            "RELAY_LOG_FORMAT",
            "RELAY_ADMIN_ADDRESS",
        ]
    );
    assert!(!text.contains('\u{1b}'));
}

/// Variables of the DNS server: each list item is checked separately.
#[test]
fn the_directory() {
    for (name, value, problem) in [
        (
            "RELAY_FLEET_INSTANCES",
            "a,a",
            "contains \"a\", which occurs twice",
        ),
        (
            "RELAY_FLEET_INSTANCES",
            "relay 0",
            "has a character that is not allowed",
        ),
        ("RELAY_DNS_ZONE", "fleet..org", "is not a DNS name"),
        ("RELAY_DNS_RELAYS", ",", "contains nothing"),
        ("RELAY_DNS_RELAYS", "relay:x", "has no valid port"),
        ("RELAY_DNS_RELAYS", "http://relay", "has no valid port"),
        (
            "RELAY_DNS_LISTEN",
            "0.0.0.0",
            "has no port; write one behind it, as in `0.0.0.0:8080`",
        ),
        ("RELAY_DNS_NS", "ns.a=b", "has no valid IP address"),
        ("RELAY_DNS_TTL", "500ms", "is too short"),
        ("RELAY_DNS_TTL", "2h", "is too long"),
    ] {
        let line = errors(&[(name, value)]);
        let expected = format!("{name}: {value:?} {problem}; allowed: ");
        assert!(line.starts_with(&expected), "{line}");
    }
    let long = format!("{}.org", vec!["a"; 60].join("."));
    assert!(errors(&[("RELAY_DNS_ZONE", &long)]).contains("is too long; "));
    let many: Vec<_> = (0..257).map(|n| n.to_string()).collect();
    let error = errors(&[("RELAY_FLEET_INSTANCES", &many.join(","))]);
    assert!(error.contains("contains more than 256 items; "), "{error}");
}
