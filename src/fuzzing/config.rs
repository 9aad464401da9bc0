//! The configuration parser, with arbitrary environments.

use std::io;

use crate::{config::Config, secret::Secret};

/// Shorter secrets may occur in a message by chance.
const MIN_SECRET_BYTES: usize = 12;

/// Parses `bytes` as `NAME=VALUE` lines of an environment. The result is either an error without any
/// secret, or a configuration that is equal after rendering and parsing.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let nothing = || Err(io::ErrorKind::NotFound.into());
    let loaded = match Config::from_env_with(pairs.iter().copied(), |_| nothing()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            let message = errors.to_string();
            assert!(!message.is_empty());
            for (name, value) in &pairs {
                let is_secret = ["RELAY_IDENTITY_SEED", "RELAY_IDENTITY_KEY"].contains(name);
                let is_elsewhere = pairs.iter().any(|(n, v)| n != name && v.contains(value));
                if is_secret && value.len() >= MIN_SECRET_BYTES && !is_elsewhere {
                    assert!(!message.contains(value), "{message}");
                }
            }
            return;
        }
    };
    assert!(!loaded.config.listen_addresses.is_empty());
    let rendered = loaded.render();
    if rendered.contains(Secret::MASK) {
        return;
    }
    let lines = rendered.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    let again = Config::from_env_with(pairs, |_| nothing());
    assert_eq!(again.map(|again| again.config), Ok(loaded.config));
}
