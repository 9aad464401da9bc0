//! `identity addresses`: the addresses that clients dial, before any relay runs.

use std::{fmt::Write as _, net::IpAddr, process::ExitCode};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::{dns, env_without_external_addresses, output, usage_error, with_runtime};
use crate::{
    config::{Config, Loaded},
    identity::{self, Identity, KeySource},
    node::addresses::{on_interfaces, own_addresses},
};

/// The addresses of one relay, each ending in its peer id.
struct RelayAddresses {
    instance: String,
    addresses: Vec<Multiaddr>,
}

/// Prints the addresses of all relays of the fleet, if the seed and the instance names are set;
/// otherwise those of the relay with this environment.
pub(super) fn print_addresses() -> ExitCode {
    find().unwrap_or_else(|code| code)
}

fn find() -> Result<ExitCode, ExitCode> {
    let base = Config::from_env(env_without_external_addresses());
    let Loaded { config: base, .. } = base.map_err(|errors| usage_error(&errors))?;
    let mut relays = Vec::new();
    let mut notes = Vec::new();
    match &base.identity.seed {
        Some(seed) if !base.fleet.is_empty() => {
            for instance in &base.fleet {
                let config = dns::load(instance)?;
                if config.external_addresses.is_empty() {
                    return Err(usage_error(
                        &"RELAY_EXTERNAL_ADDRESSES: is required for the addresses of a fleet \
                          (RELAY_FLEET_INSTANCES)",
                    ));
                }
                let peer = identity::peer_id_of(seed, instance);
                relays.push(RelayAddresses::new(
                    instance,
                    peer,
                    config.external_addresses,
                ));
            }
        }
        _ => {
            let loaded = Config::from_env(std::env::vars_os());
            let Loaded { config, .. } = loaded.map_err(|errors| usage_error(&errors))?;
            let peer = stable_identity(&config)?.peer_id();
            let addresses = if config.external_addresses.is_empty() {
                notes.push(
                    "RELAY_EXTERNAL_ADDRESSES is not set: these are the addresses of this machine's \
                     interfaces, which clients behind other routers may not reach",
                );
                own(&config)?
            } else {
                config.external_addresses
            };
            if addresses.iter().any(has_port_0) {
                notes.push("port 0: the system chooses a port when the relay starts");
            }
            relays.push(RelayAddresses::new(
                &config.identity.instance,
                peer,
                addresses,
            ));
        }
    }
    let code = output::print(render(&relays));
    for note in notes {
        output::report(format_args!("note: {note}"));
    }
    Ok(code)
}

/// The identity of the relay.
///
/// # Errors
/// When it would change at every start.
pub(super) fn stable_identity(config: &Config) -> Result<Identity, ExitCode> {
    let identity = Identity::from_config(&config.identity).map_err(|error| usage_error(&error))?;
    if identity.source() == KeySource::Ephemeral {
        return Err(usage_error(
            &"neither RELAY_IDENTITY_SEED nor RELAY_IDENTITY_KEY is set: the peer id would \
              change at every start",
        ));
    }
    Ok(identity)
}

/// The listen addresses, with the addresses of the interfaces for unspecified ones; those that the
/// relay would announce.
fn own(config: &Config) -> Result<Vec<Multiaddr>, ExitCode> {
    let mut interfaces = Ok(Vec::new());
    let code = with_runtime(async {
        interfaces = transports::interface_addresses().await;
        ExitCode::SUCCESS
    });
    let interfaces: Vec<IpAddr> = match interfaces {
        Ok(interfaces) => interfaces,
        Err(error) => {
            output::report(format_args!(
                "cannot list the addresses of the network interfaces: {error}; set \
                 RELAY_EXTERNAL_ADDRESSES"
            ));
            return Err(ExitCode::FAILURE);
        }
    };
    if code != ExitCode::SUCCESS {
        return Err(code);
    }
    let listening = config.listen_addresses.iter();
    let all: Vec<_> = listening
        .flat_map(|address| on_interfaces(address, &interfaces))
        .collect();
    Ok(own_addresses(all.iter()))
}

fn has_port_0(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| matches!(part, Protocol::Tcp(0) | Protocol::Udp(0)))
}

impl RelayAddresses {
    fn new(instance: &str, peer: PeerId, addresses: Vec<Multiaddr>) -> Self {
        let with_peer = |address: Multiaddr| address.with(Protocol::P2p(peer));
        Self {
            instance: instance.to_owned(),
            addresses: addresses.into_iter().map(with_peer).collect(),
        }
    }
}

/// One address a line. On a terminal, the relays of a fleet have headings.
fn render(relays: &[RelayAddresses]) -> String {
    let has_headings = output::is_terminal() && relays.len() > 1;
    let mut text = String::new();
    for relay in relays {
        if has_headings {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}:", relay.instance);
        }
        for address in &relay.addresses {
            let indent = if has_headings { "  " } else { "" };
            let _ = writeln!(text, "{indent}{address}");
        }
    }
    text
}
