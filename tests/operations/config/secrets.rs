//! Sources of secrets, and their absence from all output.

use transports::SwarmKey;

use super::*;

const SEED_ALLOWED: &str =
    "allowed: at least 16 characters, as `descord-relay identity generate` makes";
const KEY_ALLOWED: &str =
    "allowed: base64 of an Ed25519 or secp256k1 private key in libp2p's protobuf form";

#[test]
fn files_are_read_without_the_line_break_at_their_end() {
    let files = [("/run/secrets/seed", "correct horse battery staple\r\n")];
    let pairs = [("RELAY_IDENTITY_SEED_FILE", "/run/secrets/seed")];
    let from_file = load_with(&pairs, &files).unwrap().config;
    assert_eq!(from_file, config(&[("RELAY_IDENTITY_SEED", SEED)]));
    // Variable and file result in the same secret.
    assert_eq!(
        from_file,
        config(&[("RELAY_IDENTITY_SEED", &format!("{SEED}\n"))])
    );
    let (key, _) = key();
    let pairs = [("RELAY_IDENTITY_KEY_FILE", "./key")];
    let from_file = load_with(&pairs, &[("./key", &key)]).unwrap().config;
    assert_eq!(from_file, config(&[("RELAY_IDENTITY_KEY", &key)]));
}

#[test]
fn real_files_are_read_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed");
    let load = || Config::from_env([("RELAY_IDENTITY_SEED_FILE", path.as_os_str())]);
    let error = load().unwrap_err().to_string();
    let start = format!("RELAY_IDENTITY_SEED_FILE: {path:?} cannot be read: No such file");
    assert!(error.starts_with(&start), "{error}");
    std::fs::write(&path, SEED).unwrap();
    assert_eq!(
        load().unwrap().config.identity.seed,
        Some(Secret::new(SEED))
    );
    std::fs::write(&path, "x".repeat(64 * 1024 + 1)).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(
        error.ends_with("cannot be read: larger than 64 KiB"),
        "{error}"
    );
}

#[test]
fn a_file_may_hold_a_binary_swarm_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("swarm.key");
    let load = || Config::from_env([("RELAY_SWARM_KEY_FILE", path.as_os_str())]);
    let mut content = b"/key/swarm/psk/1.0.0/\n/bin/\n".to_vec();
    content.extend((0..32).map(|n: u8| if n < 16 { 0xff - n } else { b'\n' }));
    std::fs::write(&path, &content).unwrap();
    let key = load().unwrap().config.swarm_key;
    assert_eq!(key, Some(SwarmKey::parse(&content).unwrap()));
    std::fs::write(&path, b"\xff").unwrap();
    let error = load().unwrap_err().to_string();
    assert!(
        error.ends_with("cannot be read: is not UTF-8 text"),
        "{error}"
    );
}

#[test]
fn only_one_source_may_be_given() {
    let (key, _) = key();
    let pairs = [
        ("RELAY_IDENTITY_SEED", SEED),
        ("RELAY_IDENTITY_SEED_FILE", "/seed"),
    ];
    assert_eq!(
        errors(&pairs),
        "RELAY_IDENTITY_SEED_FILE: cannot be set together with RELAY_IDENTITY_SEED"
    );
    let pairs = [
        ("RELAY_IDENTITY_SEED_FILE", "/seed"),
        ("RELAY_IDENTITY_KEY", &key),
    ];
    assert_eq!(
        load_with(&pairs, &[("/seed", SEED)])
            .unwrap_err()
            .to_string(),
        "RELAY_IDENTITY_KEY: cannot be set together with RELAY_IDENTITY_SEED: the key needs \
         no seed"
    );
}

#[test]
fn errors_show_no_secret() {
    assert_eq!(
        errors(&[("RELAY_IDENTITY_SEED", "hunter2")]),
        format!("RELAY_IDENTITY_SEED: *** is too short; {SEED_ALLOWED}")
    );
    assert_eq!(
        errors(&[("RELAY_IDENTITY_KEY", "hunter2!")]),
        format!("RELAY_IDENTITY_KEY: *** is not base64; {KEY_ALLOWED}")
    );
    let error = errors(&[("RELAY_SWARM_KEY", "hunter2")]);
    let problem = "*** does not start with the line `/key/swarm/psk/1.0.0/`; allowed: ";
    assert!(
        error.starts_with(&format!("RELAY_SWARM_KEY: {problem}")),
        "{error}"
    );
    let problem = "is not a private key in libp2p's protobuf form";
    assert_eq!(
        errors(&[("RELAY_IDENTITY_KEY", "aHVudGVyMg==")]),
        format!("RELAY_IDENTITY_KEY: *** {problem}; {KEY_ALLOWED}")
    );
    let pairs = [("RELAY_IDENTITY_SEED_FILE", "/seed")];
    let error = load_with(&pairs, &[("/seed", "hunter2")])
        .unwrap_err()
        .to_string();
    let start = "RELAY_IDENTITY_SEED_FILE: the content of \"/seed\" is too short";
    assert_eq!(error, format!("{start}; {SEED_ALLOWED}"));
    for pair in [
        ("RELAY_IDENTITY_SEEED", SEED),
        ("RELAY_IDENTITY_SEED_FILE", SEED),
    ] {
        let error = errors(&[pair]);
        assert!(!error.contains("horse"), "{error}");
    }
}

#[test]
fn printed_configuration_shows_no_secret() {
    let (key, _) = key();
    let swarm_key = SWARM_KEY.rsplit('\n').next().unwrap();
    for (name, value, secret) in [
        ("RELAY_IDENTITY_SEED", SEED, SEED),
        ("RELAY_IDENTITY_KEY", &key, &key),
        ("RELAY_SWARM_KEY", SWARM_KEY, swarm_key),
    ] {
        let loaded = load(&[(name, value)]).unwrap();
        for text in [
            format!("{loaded:?}"),
            format!("{loaded:#?}"),
            loaded.render(),
        ] {
            assert!(text.contains("***"), "{text}");
            assert!(!text.contains(secret), "{text}");
        }
    }
    assert_eq!(Secret::new(SEED).to_string(), "***");
}
