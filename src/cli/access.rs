//! `access check`: names the access rule that decides about a peer.

use std::{fmt::Write as _, net::IpAddr, process::ExitCode};

use libp2p::PeerId;

use super::{output, peer::parse_peer_id, usage_error};
use crate::{
    access::{Scope, Setup},
    config::Loaded,
};

/// Name the access rule that decides about a peer with this environment; no relay needs to run.
///
/// A line for each scope: reservations, circuits that the peer opens, circuits to the peer.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The peer id.
    #[arg(value_parser = parse_peer_id)]
    peer: PeerId,
    /// The IP address from which the peer connects; without it, rules about networks do not match.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
}

pub(super) fn check(loaded: &Loaded, args: &CheckArgs) -> ExitCode {
    let setup = match Setup::load(&loaded.config.access) {
        Ok(Some(setup)) => setup,
        Ok(None) => {
            return output::print_line(
                "access is not restricted: no RELAY_ACCESS_* variable is set",
            );
        }
        Err(error) => return usage_error(&error),
    };
    let mut text = String::new();
    let mut is_allowed = false;
    for scope in Scope::ALL {
        // The address of a target does not matter.
        let ip = args.from.filter(|_| scope != Scope::Target);
        let explanation = setup.rules().explain(scope, &args.peer, ip);
        is_allowed |= explanation.is_allowed();
        let decision = if explanation.is_allowed() {
            "allowed"
        } else {
            "denied"
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:<8} {decision:<8} {explanation}", scope.as_str());
    }
    if args.from.is_none() && setup.rules().has_networks() {
        text.push_str("note: without --from, rules about networks do not match\n");
    }
    if is_allowed && setup.has_endpoint() {
        text.push_str(
            "note: RELAY_ACCESS_URL decides on each request that the rules allow; it was not queried\n",
        );
    }
    output::print(text)
}
