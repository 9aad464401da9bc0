//! Constraints between variables.

use super::*;

#[test]
fn the_drain_window_fits_into_the_timeout() {
    let pairs = [("RELAY_DRAIN_WINDOW", "2m"), ("RELAY_DRAIN_TIMEOUT", "90s")];
    assert_eq!(
        errors(&pairs),
        "RELAY_DRAIN_WINDOW: 2m is longer than RELAY_DRAIN_TIMEOUT (1m30s); allowed: at most \
         that"
    );
    // A value that cannot be parsed causes only one error line, and is not compared.
    let pairs = [
        ("RELAY_DRAIN_WINDOW", "1h"),
        ("RELAY_DRAIN_TIMEOUT", "2 hors"),
    ];
    assert_eq!(errors(&pairs).lines().count(), 1);
}

#[test]
fn circuits_longer_than_the_drain() {
    let expect = |pairs: &[_], timeout: &str, duration: &str| {
        let warning = format!(
            "RELAY_DRAIN_TIMEOUT ({timeout}) is shorter than RELAY_MAX_CIRCUIT_DURATION \
             ({duration}): an upgrade cuts longer circuits"
        );
        assert_eq!(warnings(pairs), [warning]);
    };
    expect(&[("RELAY_DRAIN_TIMEOUT", "10m")], "10m", "1h");
    let unlimited = [
        ("RELAY_MAX_CIRCUIT_DURATION", "0"),
        ("RELAY_MAX_CIRCUIT_BYTES", "0"),
    ];
    expect(&unlimited, "1h1m", "unlimited");
    assert!(warnings(&[("RELAY_MAX_CIRCUIT_DURATION", "6h")]).is_empty());
}

#[test]
fn the_drain_is_a_minute_longer_than_the_longest_circuit() {
    let timeout = |pairs: &[_]| config(pairs).drain.timeout;
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    assert_eq!(timeout(&[]), minutes(61));
    let circuits = ("RELAY_MAX_CIRCUIT_DURATION", "10m");
    assert_eq!(timeout(&[circuits]), minutes(11));
    assert_eq!(
        timeout(&[circuits, ("RELAY_DRAIN_TIMEOUT", "")]),
        minutes(11)
    );
    let set = ("RELAY_DRAIN_TIMEOUT", "20m");
    assert_eq!(timeout(&[circuits, set]), minutes(20));
    let unlimited = ("RELAY_MAX_CIRCUIT_DURATION", "0");
    assert_eq!(timeout(&[unlimited]), minutes(61));
}

#[test]
fn one_unlimited_value_of_a_circuit() {
    let warning = |pairs: &[_], start: &str| {
        let warnings = warnings(pairs);
        let count = warnings.iter().filter(|w| w.starts_with(start)).count();
        assert_eq!(count, 1, "{warnings:?}");
    };
    warning(
        &[("RELAY_MAX_CIRCUIT_DURATION", "0")],
        "RELAY_MAX_CIRCUIT_DURATION is 0, but RELAY_MAX_CIRCUIT_BYTES is 100MB: clients still see",
    );
    warning(
        &[("RELAY_MAX_CIRCUIT_BYTES", "0")],
        "RELAY_MAX_CIRCUIT_BYTES is 0, but RELAY_MAX_CIRCUIT_DURATION is 1h: clients still see",
    );
}

#[test]
fn limits_without_effect() {
    assert_eq!(
        warnings(&[("RELAY_MAX_CIRCUITS_PER_PEER", "513")]),
        ["RELAY_MAX_CIRCUITS_PER_PEER (513) has no effect: RELAY_MAX_CIRCUITS (512) is lower"]
    );
    let pairs = [
        ("RELAY_MAX_RESERVATIONS_PER_IP", "3"),
        ("RELAY_MAX_RESERVATIONS", "2"),
    ];
    assert_eq!(
        warnings(&pairs),
        ["RELAY_MAX_RESERVATIONS_PER_IP (3) has no effect: RELAY_MAX_RESERVATIONS (2) is lower"]
    );
    // Values that are not set cause no warning, and unlimited exceeds every limit.
    assert!(warnings(&[("RELAY_MAX_RESERVATIONS", "2")]).is_empty());
    let pairs = [
        ("RELAY_MAX_CIRCUITS_PER_PEER", "513"),
        ("RELAY_MAX_CIRCUITS", "0"),
    ];
    assert!(warnings(&pairs).is_empty());
}

#[test]
fn every_address_as_a_trusted_proxy() {
    let warning = warnings(&[("RELAY_TRUSTED_PROXIES", "10.0.0.0/8,::/0")]);
    assert!(
        warning[0].starts_with("RELAY_TRUSTED_PROXIES contains ::/0: any client"),
        "{warning:?}"
    );
    assert!(warnings(&[("RELAY_TRUSTED_PROXIES", "0.0.0.0/1")]).is_empty());
}

#[test]
fn bandwidths_without_effect() {
    let relay = ("RELAY_MAX_BANDWIDTH", "1MB");
    let peer = ("RELAY_MAX_BANDWIDTH_PER_PEER", "2MB");
    let circuit = ("RELAY_MAX_BANDWIDTH_PER_CIRCUIT", "2500KB");
    assert_eq!(
        warnings(&[relay, peer, circuit]),
        [
            "RELAY_MAX_BANDWIDTH_PER_CIRCUIT (2500KB) has no effect: RELAY_MAX_BANDWIDTH_PER_PEER \
             (2MB) is lower",
            "RELAY_MAX_BANDWIDTH_PER_PEER (2MB) has no effect: RELAY_MAX_BANDWIDTH (1MB) is lower"
        ]
    );
    assert_eq!(
        warnings(&[relay, circuit]),
        [
            "RELAY_MAX_BANDWIDTH_PER_CIRCUIT (2500KB) has no effect: RELAY_MAX_BANDWIDTH (1MB) is lower"
        ]
    );
    let burst = ("RELAY_MAX_BURST_PER_PEER", "3MB");
    assert!(warnings(&[peer, circuit, burst])[1..].is_empty());
    assert_eq!(
        warnings(&[relay, burst]),
        ["RELAY_MAX_BURST_PER_PEER has no effect: RELAY_MAX_BANDWIDTH_PER_PEER is unlimited"]
    );
    assert!(warnings(&[relay, ("RELAY_MAX_BURST_PER_PEER", "0")]).is_empty());
}

#[test]
fn short_reservations() {
    let warning = warnings(&[("RELAY_RESERVATION_TTL", "179s")]);
    assert!(
        warning[0].starts_with("RELAY_RESERVATION_TTL is 2m59s: below 3m"),
        "{warning:?}"
    );
    assert!(warnings(&[("RELAY_RESERVATION_TTL", "3m")]).is_empty());
}

#[test]
fn seed_without_a_distinct_instance_name_is_a_warning() {
    let warning = warnings(&[("RELAY_IDENTITY_SEED", SEED), ("HOSTNAME", "localhost")]);
    assert!(
        warning[0].contains("every relay named localhost"),
        "{warning:?}"
    );
    assert!(warnings(&[("RELAY_IDENTITY_SEED", SEED)]).is_empty());
    assert!(warnings(&[("HOSTNAME", "localhost")]).is_empty());
}

#[test]
fn name_servers_have_an_address_inside_the_zone_and_none_outside() {
    let zone = ("RELAY_DNS_ZONE", "fleet.test");
    for servers in [
        "dns.test",
        "ns.fleet.test=192.0.2.1",
        "xfleet.test",
        "fleet.test=::1",
    ] {
        config(&[zone, ("RELAY_DNS_NS", servers)]);
    }
    let inside = errors(&[zone, ("RELAY_DNS_NS", "ns.fleet.test")]);
    assert_eq!(
        inside,
        "RELAY_DNS_NS: ns.fleet.test is inside the zone and needs its IP address: write \
         `ns.fleet.test=192.0.2.53`"
    );
    let outside = errors(&[zone, ("RELAY_DNS_NS", "xfleet.test=192.0.2.1")]);
    assert_eq!(
        outside,
        "RELAY_DNS_NS: xfleet.test is outside of the zone, which cannot have its address: do not \
         write `xfleet.test=192.0.2.53`"
    );
}
