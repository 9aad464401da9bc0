//! Valid values of every variable.

use circuit_relay::{BandwidthLimit, BandwidthLimits, CircuitLimit, RequestRateLimits};
use descord_relay::autonat::Versions;
use rate_limits::{Rate, Unit};
use resource_manager::{Share, Shares};

use super::*;

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

/// Every variable with a valid value, and its printed form.
const GOOD: &[(&str, &str, &str)] = &[
    (
        "RELAY_LISTEN_ADDRESSES",
        " /ip4/127.0.0.1/tcp/0 , /ip6/::1/tcp/4001/ws,/ip4/1.2.3.4/udp/1/quic-v1,",
        "/ip4/127.0.0.1/tcp/0,/ip6/::1/tcp/4001/ws,/ip4/1.2.3.4/udp/1/quic-v1",
    ),
    (
        "RELAY_EXTERNAL_ADDRESSES",
        "/dns/{instance}.example/tcp/900{index}, /ip4/127.0.0.1/udp/9/quic-v1",
        "/dns/relay-2.example/tcp/9002,/ip4/127.0.0.1/udp/9/quic-v1",
    ),
    ("RELAY_INSTANCE", "eu_west.Relay-0", "eu_west.Relay-0"),
    ("RELAY_IDENTITY_SEED", SEED, "***"),
    ("RELAY_MAX_RESERVATIONS", "7", "7"),
    ("RELAY_MAX_RESERVATIONS_PER_PEER", "0", "0"),
    ("RELAY_MAX_RESERVATIONS_PER_IP", "12", "12"),
    ("RELAY_RESERVATION_TTL", "30s", "30s"),
    ("RELAY_MAX_CIRCUITS", "100000", "100000"),
    ("RELAY_MAX_CIRCUITS_PER_PEER", " 9 ", "9"),
    ("RELAY_MAX_CIRCUITS_PER_SOURCE", "9", "9"),
    ("RELAY_MAX_CIRCUITS_PER_TARGET", "10", "10"),
    ("RELAY_UNUSED_CIRCUIT_TIMEOUT", "20s", "20s"),
    ("RELAY_IDLE_CIRCUIT_TIMEOUT", "1h", "1h"),
    (
        "RELAY_PREFIX_SHARES",
        "100.64.0.0/10 = 1/2, 192.0.2.7=100%,2001:db8::/32=12.5%",
        "100.64.0.0/10=50%,192.0.2.7/32=100%,2001:db8::/32=12.5%",
    ),
    ("RELAY_MAX_CIRCUIT_DURATION", "1h 30m", "1h30m"),
    ("RELAY_MAX_CIRCUIT_BYTES", "64KiB", "64KiB"),
    ("RELAY_MAX_BANDWIDTH", "10000KB", "10MB"),
    ("RELAY_MAX_BURST", "0", "0"),
    ("RELAY_MAX_BANDWIDTH_PER_PEER", "0.5MiB", "512KiB"),
    ("RELAY_MAX_BURST_PER_PEER", "1000", "1KB"),
    ("RELAY_MAX_BANDWIDTH_PER_CIRCUIT", "1KB", "1KB"),
    ("RELAY_MAX_BURST_PER_CIRCUIT", "64KiB", "64KiB"),
    ("RELAY_MAX_MEMORY", "0512 MiB", "512MiB"),
    (
        "RELAY_RATE_CONNECTIONS_PER_IP",
        "1000000 + 1000000 / s",
        "1000000+1000000/s",
    ),
    ("RELAY_RATE_RESERVATIONS_PER_PEER", "1+2/m", "1+2/m"),
    ("RELAY_RATE_RESERVATIONS_PER_IP", "0", "0"),
    ("RELAY_RATE_CIRCUITS_PER_PEER", "3+4/h", "3+4/h"),
    ("RELAY_RATE_CIRCUITS_PER_IP", "05+06/s", "5+6/s"),
    (
        "RELAY_TRUSTED_PROXIES",
        "10.0.0.0/8, ::ffff:192.0.2.1,2001:db8::/32",
        "10.0.0.0/8,192.0.2.1/32,2001:db8::/32",
    ),
    (
        "RELAY_ACCESS_RESERVE_ALLOW",
        " 192.0.2.1, ::ffff:198.51.100.0/120,none,",
        "192.0.2.1/32,198.51.100.0/24,none",
    ),
    ("RELAY_ACCESS_RESERVE_DENY", "::/0", "::/0"),
    ("RELAY_ACCESS_CONNECT_ALLOW", "none", "none"),
    ("RELAY_ACCESS_CONNECT_DENY", "0.0.0.0/0", "0.0.0.0/0"),
    ("RELAY_ACCESS_TARGET_ALLOW", "none", "none"),
    ("RELAY_ACCESS_TARGET_DENY", PEER, PEER),
    (
        "RELAY_ACCESS_FILE",
        "/etc/access.rules",
        "/etc/access.rules",
    ),
    ("RELAY_ACCESS_URL", "HTTP://Members:80", "http://members/"),
    ("RELAY_ACCESS_TOKEN", "hunter2", "***"),
    ("RELAY_ACCESS_CA_FILE", "ca.pem", "ca.pem"),
    ("RELAY_ACCESS_TIMEOUT", "10ms", "10ms"),
    ("RELAY_ACCESS_ON_ERROR", "FAIL-OPEN", "fail-open"),
    ("RELAY_ACCESS_CACHE_TTL", "0", "0"),
    ("RELAY_ACCESS_CACHE_CAPACITY", "0", "0"),
    ("RELAY_ACCESS_CONCURRENCY", "1", "1"),
    ("RELAY_AUTONAT", "V2, v1,", "v1,v2"),
    ("RELAY_IDLE_TIMEOUT", "5s", "5s"),
    ("RELAY_STATS_INTERVAL", "0", "0"),
    ("RELAY_LOG_FORMAT", "JSON", "json"),
    ("RELAY_PEER_IDS", "full", "full"),
    ("RELAY_ADMIN_ADDRESS", "[::1]:0", "[::1]:0"),
    ("RELAY_PEER_STATS_CAPACITY", "16384", "16384"),
    ("RELAY_PEER_STATS_WINDOW", "60s", "1m"),
    ("RELAY_DRAIN_DELAY", "0", "0s"),
    ("RELAY_DRAIN_WINDOW", "10s", "10s"),
    ("RELAY_DRAIN_TIMEOUT", "2h", "2h"),
    (
        "RELAY_FLEET_INSTANCES",
        "relay-0, Relay.1,",
        "relay-0,Relay.1",
    ),
    ("RELAY_DNS_ZONE", "Fleet.Example.org.", "fleet.example.org"),
    (
        "RELAY_DNS_RELAYS",
        "relays, relay-0.internal.:81,192.0.2.1,[2001:db8::1]:82,2001:db8::2",
        "relays:8080,relay-0.internal.:81,192.0.2.1:8080,[2001:db8::1]:82,[2001:db8::2]:8080",
    ),
    (
        "RELAY_DNS_LISTEN",
        "192.0.2.53:53,[::]:53",
        "192.0.2.53:53,[::]:53",
    ),
    (
        "RELAY_DNS_NS",
        "NS.example.org, a.fleet.example.org=192.0.2.53+2001:db8::53",
        "ns.example.org,a.fleet.example.org=192.0.2.53+2001:db8::53",
    ),
    ("RELAY_DNS_TTL", "1h", "1h"),
    ("RELAY_DNS_RATE_LIMIT", "0", "0"),
];

fn rate(burst: u32, refill: u32, per: Unit) -> Rate {
    Rate {
        burst: burst.try_into().unwrap(),
        refill: refill.try_into().unwrap(),
        per,
    }
}

#[test]
fn every_variable_takes_effect() {
    for (name, value, shown) in GOOD {
        // Settings of the access endpoint are errors without a URL.
        let pairs = [("RELAY_ACCESS_URL", "http://members"), (name, value)];
        let is_about_access = name.starts_with("RELAY_ACCESS_");
        let pairs = pairs.get(usize::from(!is_about_access)..).unwrap();
        let text = load(pairs).unwrap().render();
        assert!(
            text.contains(&format!("\n{name}={shown}\n")),
            "{name}={value} in\n{text}"
        );
    }
    let tested = GOOD.len() + 2; // RELAY_IDENTITY_KEY and RELAY_SWARM_KEY have separate tests.
    let rows = reference()
        .lines()
        .filter(|line| line.starts_with("| `"))
        .count();
    assert_eq!(rows, tested, "a variable without a test");
}

fn limit(rate: u64, burst: Option<u64>) -> BandwidthLimit {
    BandwidthLimit {
        rate: Some(rate),
        burst,
    }
}

#[test]
fn variables_set_the_intended_fields() {
    let pairs: Vec<_> = GOOD
        .iter()
        .map(|(name, value, _)| (*name, *value))
        .collect();
    let config = config(&pairs);
    let limits = Limits {
        reservations: Some(7),
        reservations_per_peer: None,
        reservations_per_ip: Some(12),
        reservation_ttl: Duration::from_secs(30),
        circuits: Some(100_000),
        circuits_per_source: Some(9),
        circuits_per_target: Some(10),
        unused_circuit_timeout: Some(Duration::from_secs(20)),
        idle_circuit_timeout: Some(Duration::from_secs(3600)),
        prefix_shares: Shares::new(vec![
            ("100.64.0.0/10".parse().unwrap(), "1/2".parse().unwrap()),
            ("192.0.2.7/32".parse().unwrap(), Share::ALL),
            ("2001:db8::/32".parse().unwrap(), "1/8".parse().unwrap()),
        ]),
        circuit: CircuitLimit {
            duration: Some(Duration::from_secs(5400)),
            bytes: Some(65_536),
        },
        reservation_rate: RequestRateLimits {
            per_peer: Some(rate(1, 2, Unit::Minute)),
            per_ip: None,
        },
        circuit_rate: RequestRateLimits {
            per_peer: Some(rate(3, 4, Unit::Hour)),
            per_ip: Some(rate(5, 6, Unit::Second)),
        },
        bandwidth: BandwidthLimits {
            relay: limit(10_000_000, None),
            peer: limit(524_288, Some(1000)),
            circuit: limit(1000, Some(65_536)),
        },
    };
    let most = rate(Rate::MAX, Rate::MAX, Unit::Second);
    assert_eq!(config.admission.rate_per_ip, Some(most));
    assert_eq!(config.admission.proxies.len(), 3);
    assert_eq!(config.limits, limits);
    assert_eq!(config.identity.instance, "eu_west.Relay-0");
    assert_eq!(config.identity.seed, Some(Secret::new(SEED)));
    assert_eq!(config.idle_timeout, Duration::from_secs(5));
    assert_eq!(config.stats_interval, None);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.peer_ids, PeerIds::Full);
    assert_eq!(config.admin_address, "[::1]:0".parse().ok());
    assert_eq!(config.peer_stats.capacity, 16_384);
    assert_eq!(config.peer_stats.window, Duration::from_secs(60));
    assert_eq!(config.drain.delay, Duration::ZERO);
    assert_eq!(config.drain.window, Duration::from_secs(10));
    assert_eq!(config.drain.timeout, Duration::from_secs(7200));
    assert_eq!(config.fleet, ["relay-0", "Relay.1"]);
    assert_eq!(config.dns.zone.as_deref(), Some("fleet.example.org"));
    let relays: Vec<_> = config
        .dns
        .relays
        .iter()
        .map(|r| (r.host.as_str(), r.port))
        .collect();
    assert_eq!(
        relays,
        [
            ("relays", 8080),
            ("relay-0.internal.", 81),
            ("192.0.2.1", 8080),
            ("2001:db8::1", 82),
            ("2001:db8::2", 8080)
        ]
    );
    assert_eq!(config.dns.listen[1], SocketAddr::from(([0; 16], 53)));
    assert_eq!(config.dns.servers[0].name, "ns.example.org");
    assert_eq!(config.dns.servers[1].addresses.len(), 2);
    assert_eq!(config.dns.ttl, Duration::from_secs(3600));
    assert_eq!(config.dns.rate, None);
    let last = GOOD.last().map(|(name, _, _)| *name);
    assert_eq!(last, Some("RELAY_DNS_RATE_LIMIT"));
}

#[test]
fn zero_is_unlimited() {
    let limits = config(&[
        ("RELAY_MAX_RESERVATIONS", "0"),
        ("RELAY_MAX_RESERVATIONS_PER_PEER", "0"),
        ("RELAY_MAX_RESERVATIONS_PER_IP", "0"),
        ("RELAY_MAX_CIRCUITS", "0"),
        ("RELAY_MAX_CIRCUITS_PER_PEER", "0"),
        ("RELAY_UNUSED_CIRCUIT_TIMEOUT", "0"),
        ("RELAY_MAX_CIRCUIT_DURATION", "0s"),
        ("RELAY_MAX_CIRCUIT_BYTES", "0MB"),
    ])
    .limits;
    let unlimited = Limits {
        reservations: None,
        reservations_per_peer: None,
        reservations_per_ip: None,
        circuits: None,
        circuits_per_source: None,
        circuits_per_target: None,
        unused_circuit_timeout: None,
        idle_circuit_timeout: None,
        circuit: CircuitLimit {
            duration: None,
            bytes: None,
        },
        ..Limits::default()
    };
    assert_eq!(limits, unlimited);
}

#[test]
fn sizes_accept_common_units() {
    let size = |text| {
        config(&[("RELAY_MAX_CIRCUIT_BYTES", text)])
            .limits
            .circuit
            .bytes
    };
    assert_eq!(size("1"), Some(1));
    assert_eq!(size("100MB"), Some(100_000_000));
    assert_eq!(size("100 mb"), Some(100_000_000));
    assert_eq!(size("1.5GiB"), Some(1_610_612_736));
    assert_eq!(size("2T"), Some(2_000_000_000_000));
}

#[test]
fn autonat_is_off_when_empty_or_none() {
    let none = Versions {
        v1: false,
        v2: false,
    };
    for off in ["", " ", "none"] {
        assert_eq!(config(&[("RELAY_AUTONAT", off)]).autonat, none);
    }
    let v2 = Versions { v2: true, ..none };
    assert_eq!(config(&[("RELAY_AUTONAT", "v2")]).autonat, v2);
}

#[test]
fn an_empty_admin_address_is_off() {
    assert_eq!(config(&[("RELAY_ADMIN_ADDRESS", "")]).admin_address, None);
    assert_eq!(config(&[("RELAY_ADMIN_ADDRESS", " ")]).admin_address, None);
}

#[test]
fn external_addresses_of_every_form_are_accepted() {
    let list = [
        "/ip4/192.0.2.1/tcp/9000",
        "/ip6/2001:db8::1/tcp/9000/ws",
        "/dns/relay.example/tcp/443/tls/ws",
        "/ip4/192.0.2.1/tcp/443/tls/sni/relay.example/ws",
        "/dns4/relay.example/tcp/443/tls/sni/other.example/ws",
        "/dns4/relay.example/tcp/443/wss",
        "/dns6/relay.example/udp/9000/quic-v1",
        "/ip4/10.0.0.1/tcp/9000",
    ];
    let config = config(&[("RELAY_EXTERNAL_ADDRESSES", &list.join(","))]);
    assert_eq!(addresses(&config.external_addresses), list);
}

#[test]
fn private_networks_have_no_quic() {
    let listening = |pairs: &[_]| addresses(&config(pairs).listen_addresses);
    let key = ("RELAY_SWARM_KEY", SWARM_KEY);
    assert_eq!(
        listening(&[key]),
        ["/ip4/0.0.0.0/tcp/9000", "/ip6/::/tcp/9000"]
    );
    let set = ("RELAY_LISTEN_ADDRESSES", "/ip4/0.0.0.0/tcp/1/ws");
    assert_eq!(listening(&[key, set]), ["/ip4/0.0.0.0/tcp/1/ws"]);
    let quic = "/ip4/192.0.2.1/udp/1/quic-v1";
    for name in ["RELAY_LISTEN_ADDRESSES", "RELAY_EXTERNAL_ADDRESSES"] {
        assert_eq!(
            errors(&[key, (name, quic)]),
            format!(
                "{name}: contains {quic}, which cannot be used with RELAY_SWARM_KEY: there is no \
                 QUIC in private networks; allowed: TCP and WebSocket"
            )
        );
    }
}

#[test]
fn identity_key_is_accepted() {
    let (key, peer_id) = key();
    let config = config(&[("RELAY_IDENTITY_KEY", &key)]);
    let identity = descord_relay::identity::Identity::from_config(&config.identity).unwrap();
    assert_eq!(identity.peer_id().to_string(), peer_id);
}
