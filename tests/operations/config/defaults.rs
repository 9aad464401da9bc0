//! The configuration without any variables.

use circuit_relay::CircuitLimit;
use descord_relay::autonat::Versions;

use super::*;

/// The lines of `lines` that the default configuration does not print.
fn not_in_effect<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let text = load(&[]).unwrap().render();
    let is_missing = |line: &&&str| !text.lines().any(|shown| shown == **line);
    lines.iter().filter(is_missing).copied().collect()
}

#[test]
fn empty_environment_is_valid() {
    let loaded = load(&[]).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = loaded.config;
    assert_eq!(
        addresses(&config.listen_addresses),
        [
            "/ip4/0.0.0.0/tcp/9000",
            "/ip4/0.0.0.0/udp/9000/quic-v1",
            "/ip6/::/tcp/9000",
            "/ip6/::/udp/9000/quic-v1"
        ]
    );
    assert!(config.external_addresses.is_empty());
    assert_eq!(
        config.identity,
        IdentityConfig {
            instance: "relay-2".to_owned(),
            seed: None,
            key: None
        }
    );
    assert_eq!(
        config.limits,
        Limits {
            reservations: Some(1024),
            reservations_per_peer: Some(3),
            reservations_per_ip: Some(64),
            reservation_ttl: Duration::from_secs(3600),
            circuits: Some(512),
            circuits_per_source: Some(5),
            circuits_per_target: Some(5),
            unused_circuit_timeout: Some(Duration::from_secs(30)),
            idle_circuit_timeout: None,
            prefix_shares: resource_manager::Shares::default(),
            circuit: CircuitLimit {
                duration: Some(Duration::from_secs(3600)),
                bytes: Some(100_000_000)
            },
            ..Limits::default()
        }
    );
    let missing = not_in_effect(&[
        "RELAY_RATE_CONNECTIONS_PER_IP=500+20/s",
        "RELAY_RATE_RESERVATIONS_PER_PEER=20+10/m",
        "RELAY_RATE_RESERVATIONS_PER_IP=500+10/s",
        "RELAY_RATE_CIRCUITS_PER_PEER=100+2/s",
        "RELAY_RATE_CIRCUITS_PER_IP=1000+20/s",
    ]);
    assert!(missing.is_empty(), "{missing:?}");
    assert!(config.admission.proxies.is_empty());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.autonat, Versions { v1: true, v2: true });
    assert_eq!(config.idle_timeout, Duration::from_secs(60));
    assert_eq!(config.stats_interval, Some(Duration::from_secs(60)));
    assert_eq!(config.log_format, LogFormat::Auto);
    assert_eq!(config.peer_ids, PeerIds::Pseudonym);
    assert_eq!(
        config.admin_address,
        Some(SocketAddr::from(([0, 0, 0, 0], 8080)))
    );
    assert_eq!(config.peer_stats.capacity, 1024);
    assert_eq!(config.peer_stats.window, Duration::from_secs(300));
    assert_eq!(config.drain.delay, Duration::from_secs(5));
    assert_eq!(config.drain.window, Duration::from_secs(30));
    assert_eq!(config.drain.timeout, Duration::from_secs(3660));
    assert!(config.fleet.is_empty());
    assert_eq!(
        config.dns,
        DnsConfig {
            zone: None,
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 5300))],
            relays: Vec::new(),
            ttl: Duration::from_secs(5),
            servers: Vec::new(),
            rate: Some(100),
        }
    );
}

#[test]
fn an_empty_value_counts_as_not_set() {
    for line in load(&[])
        .unwrap()
        .render()
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let (name, _) = line.split_once('=').unwrap();
        if ["RELAY_ADMIN_ADDRESS", "RELAY_AUTONAT"].contains(&name) {
            continue;
        }
        for empty in ["", " ", "\n"] {
            // Whitespace is a valid part of a secret, so these values are bad secrets.
            let is_secret = name.starts_with("RELAY_IDENTITY")
                || matches!(name, "RELAY_ACCESS_TOKEN" | "RELAY_SWARM_KEY");
            if is_secret && empty == " " {
                continue;
            }
            assert_eq!(config(&[(name, empty)]), config(&[]), "{name}={empty:?}");
        }
    }
    assert_eq!(config(&[("RELAY_IDENTITY_SEED_FILE", "")]), config(&[]));
}

#[test]
fn the_instance_is_the_host_name() {
    let instance = |pairs: &[_]| config(pairs).identity.instance;
    assert_eq!(instance(&[("HOSTNAME", "relay-7")]), "relay-7");
    assert_eq!(
        instance(&[("HOSTNAME", "relay-7"), ("RELAY_INSTANCE", "a")]),
        "a"
    );
    assert_eq!(instance(&[("HOSTNAME", "not a name")]), "relay-2");
    let nowhere = |_: &Path| Err(io::ErrorKind::NotFound.into());
    let loaded = Config::from_env_with::<String, String>([], nowhere).unwrap();
    assert_eq!(loaded.config.identity.instance, "relay");
}

#[test]
fn other_variables_are_ignored() {
    let others = [
        ("RUST_LOG", "debug"),
        ("OTEL_SDK_DISABLED", "true"),
        ("relay_x", "1"),
    ];
    assert_eq!(config(&others), config(&[]));
}
