//! What holds between variables.

use super::*;

#[test]
fn the_drain_window_fits_into_the_timeout() {
    let pairs = [("RELAY_DRAIN_WINDOW", "2m"), ("RELAY_DRAIN_TIMEOUT", "90s")];
    assert_eq!(
        errors(&pairs),
        "RELAY_DRAIN_WINDOW: 2m is longer than RELAY_DRAIN_TIMEOUT (1m30s); allowed: at most \
         that"
    );
    // One mistake, one line: a value that cannot be read is not compared.
    let pairs = [
        ("RELAY_DRAIN_WINDOW", "1h"),
        ("RELAY_DRAIN_TIMEOUT", "2 hors"),
    ];
    assert_eq!(errors(&pairs).lines().count(), 1);
}

#[test]
fn circuits_that_outlive_the_drain() {
    let expect = |pairs: &[_], timeout: &str, duration: &str| {
        let warning = format!(
            "RELAY_DRAIN_TIMEOUT ({timeout}) is shorter than RELAY_MAX_CIRCUIT_DURATION \
             ({duration}): an upgrade cuts the circuits that need longer"
        );
        assert_eq!(warnings(pairs), [warning]);
    };
    expect(&[("RELAY_DRAIN_TIMEOUT", "10m")], "10m", "1h");
    expect(&[("RELAY_MAX_CIRCUIT_DURATION", "6m")], "5m", "6m");
    expect(&[("RELAY_MAX_CIRCUIT_DURATION", "0")], "5m", "unlimited");
    assert!(warnings(&[("RELAY_MAX_CIRCUIT_DURATION", "5m")]).is_empty());
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
    // A default is nobody's mistake, and unlimited is above everything.
    assert!(warnings(&[("RELAY_MAX_RESERVATIONS", "2")]).is_empty());
    let pairs = [
        ("RELAY_MAX_CIRCUITS_PER_PEER", "513"),
        ("RELAY_MAX_CIRCUITS", "0"),
    ];
    assert!(warnings(&pairs).is_empty());
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
fn a_seed_wants_a_name() {
    let warning = warnings(&[("RELAY_IDENTITY_SEED", SEED), ("HOSTNAME", "localhost")]);
    assert!(
        warning[0].contains("every relay named localhost"),
        "{warning:?}"
    );
    assert!(warnings(&[("RELAY_IDENTITY_SEED", SEED)]).is_empty());
    assert!(warnings(&[("HOSTNAME", "localhost")]).is_empty());
}
