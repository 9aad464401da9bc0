//! The configuration: values, defaults, errors and warnings for an environment.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod access;
mod bad_values;
mod between_variables;
mod defaults;
mod names;
mod output;
mod secrets;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use circuit_relay::Limits;
use descord_relay::{
    access::OnError,
    config::{Config, Errors, Loaded, reference},
    identity::IdentityConfig,
    pseudonym::PeerIds,
    secret::Secret,
    telemetry::log::LogFormat,
};
use fleet_dns::config::DnsConfig;
use proptest::prelude::*;

/// Loads an environment without files, on a machine named `relay-2`.
fn load(pairs: &[(&str, &str)]) -> Result<Loaded, Errors> {
    load_with(pairs, &[])
}

/// As [`load`], with these files.
fn load_with(pairs: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Loaded, Errors> {
    let host_name = [("/proc/sys/kernel/hostname", "relay-2\n")];
    let files: BTreeMap<_, _> = host_name.iter().chain(files).copied().collect();
    Config::from_env_with(pairs.iter().copied(), |path: &Path| {
        let text = path.to_str().and_then(|path| files.get(path));
        text.map(|text| (*text).to_owned())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    })
}

fn config(pairs: &[(&str, &str)]) -> Config {
    match load(pairs) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{errors}"),
    }
}

fn errors(pairs: &[(&str, &str)]) -> String {
    load(pairs).expect_err("a bad environment").to_string()
}

/// The warnings, except those of the default configuration.
fn warnings(pairs: &[(&str, &str)]) -> Vec<String> {
    let loaded = |pairs| load(pairs).unwrap_or_else(|errors| panic!("{errors}"));
    let usual = loaded(&[]).warnings;
    let mut warnings = loaded(pairs).warnings;
    warnings.retain(|warning| !usual.contains(warning));
    warnings.iter().map(ToString::to_string).collect()
}

fn addresses(list: &[libp2p::Multiaddr]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// An Ed25519 key in libp2p's protobuf encoding, as base64, and its peer id.
fn key() -> (String, String) {
    use base64::Engine as _;
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes([7; 32]).unwrap();
    let bytes = keypair.to_protobuf_encoding().unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    (text, keypair.public().to_peer_id().to_string())
}

/// The key of a private network.
const SWARM_KEY: &str = "/key/swarm/psk/1.0.0/\n/base16/\n\
                         0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const SEED: &str = "correct horse battery staple";
