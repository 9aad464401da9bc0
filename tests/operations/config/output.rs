//! The printed configuration, and arbitrary environments.

use super::*;

#[test]
fn render_names_the_source_of_values() {
    let pairs = [
        ("RELAY_MAX_CIRCUITS", "64"),
        ("RELAY_IDENTITY_SEED_FILE", "/seed"),
    ];
    let text = load_with(&pairs, &[("/seed", SEED)]).unwrap().render();
    for expected in [
        "# Maximum number of open circuits. [set; default: 512]\nRELAY_MAX_CIRCUITS=64\n",
        "[set by a file; default: none]\nRELAY_IDENTITY_SEED=***\n",
        "# Maximum number of peers with a reservation. [default: 1024]\nRELAY_MAX_RESERVATIONS=1024\n",
        "[default: the machine's host name]\nRELAY_INSTANCE=relay-2\n",
        "RELAY_EXTERNAL_ADDRESSES=\n",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}

/// The variables of a printed configuration.
fn pairs(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once('=').unwrap()).collect()
}

#[test]
fn rendered_configuration_can_be_loaded() {
    let text = load(&[]).unwrap().render();
    assert_eq!(config(&pairs(&text)), config(&[]));
}

#[test]
fn the_reference_in_the_documentation_is_current() {
    test_support::generated_page::check_variables(
        "docs/configuration.md",
        &reference(),
        "cargo test --test operations config",
    );
}

#[test]
fn the_reference_has_a_row_of_three_cells_for_each_variable() {
    let reference = reference();
    for line in reference.lines().filter(|line| line.starts_with('|')) {
        assert_eq!(line.matches('|').count(), 4, "{line}");
    }
    for (name, _) in pairs(&load(&[]).unwrap().render()) {
        assert!(reference.contains(&format!("| `{name}` |")), "{name}");
    }
    assert!(reference.contains("`RELAY_IDENTITY_SEED_FILE`"));
}

#[test]
fn the_reference_has_a_section_for_each_subject() {
    let reference = reference();
    let titles = reference
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let titles: Vec<_> = titles.collect();
    assert_eq!(
        titles,
        [
            "Addresses",
            "Identity",
            "Reservations",
            "Circuits",
            "Resources and rates",
            "Bandwidth",
            "Access control",
            "Log and admin API",
            "Drain",
            "DNS",
        ]
    );
}

proptest! {
    /// Numbers of all sizes are unchanged after printing and parsing.
    #[test]
    fn values_survive_a_round_trip(
        bytes in 0..u64::MAX,
        count: usize,
        ttl in 30..=u64::from(u32::MAX),
        millis in 1_000..=4_000_000_000_000_u64,
    ) {
        let mut loaded = load(&[]).unwrap();
        loaded.config.limits.circuit.bytes = Some(bytes).filter(|bytes| *bytes > 0);
        loaded.config.limits.circuits = Some(count).filter(|count| *count > 0);
        loaded.config.limits.reservation_ttl = Duration::from_secs(ttl);
        loaded.config.limits.circuit.duration = Some(Duration::from_millis(millis));
        prop_assert_eq!(config(&pairs(&loaded.render())), loaded.config);
    }

    /// Any environment results in a configuration, or in errors of one line each.
    #[test]
    fn arbitrary_environment_does_not_panic(
        pairs in proptest::collection::vec((any_name(), any_value()), 0..8),
    ) {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        if let Err(errors) = load(&pairs) {
            let lines = errors.to_string().lines().count();
            prop_assert!(lines > 0);
            prop_assert_eq!(lines, errors.iter().count());
        }
    }
}

/// Valid names, similar names, and arbitrary ones.
fn any_name() -> impl Strategy<Value = String> {
    let reference = reference();
    let ours: Vec<String> = reference.split('`').map(str::to_owned).collect();
    let ours: Vec<String> = ours
        .into_iter()
        .filter(|n| n.starts_with("RELAY_"))
        .collect();
    prop_oneof![
        8 => proptest::sample::select(ours),
        1 => "RELAY_[A-Z0-9_]{0,20}",
        1 => "RELAY_.{0,10}",
        1 => any::<String>(),
    ]
}

/// Almost valid values, and arbitrary ones.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[0-9.]{0,24}[a-zA-Zµ ]{0,4}",
        "[{}a-z,/]{0,20}",
        "(/(ip4|ip6|dns|tcp|udp|ws|tls|quic-v1|p2p|0|1.2.3.4|::1|9000|a.b|\\{index\\})){0,6}",
    ]
}
