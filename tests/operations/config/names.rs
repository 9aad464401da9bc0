//! Unknown variable names, and names that Kubernetes injects.

use super::*;

#[test]
fn mistyped_name_error_has_a_suggestion() {
    for (name, meant) in [
        ("RELAY_MAX_CIRCUIT", "RELAY_MAX_CIRCUITS"),
        ("RELAY_LISTEN_ADDRESS", "RELAY_LISTEN_ADDRESSES"),
        ("RELAY_ADMIN_ADRESS", "RELAY_ADMIN_ADDRESS"),
        ("RELAY_IDENTITY_SEED_FIEL", "RELAY_IDENTITY_SEED_FILE"),
        ("RELAY_LOGFORMAT", "RELAY_LOG_FORMAT"),
    ] {
        let expected = format!("{name}: there is no such variable; did you mean {meant}?");
        assert_eq!(errors(&[(name, "value")]), expected);
    }
}

#[test]
fn old_name_of_renamed_variable_is_an_error_with_the_new_name() {
    for (old, new) in [
        ("RELAY_ACCESS_CERTIFICATE", "RELAY_ACCESS_CA_FILE"),
        ("RELAY_PROXY_PROTOCOL_FROM", "RELAY_TRUSTED_PROXIES"),
    ] {
        for value in ["10.0.0.0/8", ""] {
            let expected = format!("{old}: was renamed; set {new} instead");
            assert_eq!(errors(&[(old, value)]), expected);
        }
    }
}

#[test]
fn unknown_name_error_refers_to_the_reference() {
    for name in ["RELAY_", "RELAY_COLOUR", "RELAY_X.Y"] {
        let hint = "`descord-relay config --reference` lists all variables";
        let expected = format!("{name}: there is no such variable; {hint}");
        assert_eq!(errors(&[(name, "red")]), expected);
    }
}

#[test]
fn service_links_are_ignored_with_one_warning() {
    let links = [
        ("RELAY_PORT", "tcp://10.96.0.1:9000"),
        ("RELAY_SERVICE_HOST", "10.96.0.1"),
        ("RELAY_SERVICE_PORT", "9000"),
        ("RELAY_PORT_9000_TCP_ADDR", "10.96.0.1"),
        ("RELAY_HEADLESS_SERVICE_PORT_QUIC", "9000"),
    ];
    assert_eq!(config(&links), config(&[]));
    let warnings = warnings(&links);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for (name, _) in links {
        assert!(warnings[0].contains(name), "{name} in {warnings:?}");
    }
    assert!(errors(&[("RELAY_PORT", "9000")]).starts_with("RELAY_PORT: there is no such"));
}
