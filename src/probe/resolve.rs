//! Resolves the addresses on the command line to addresses of single relays.
//!
//! libp2p's DNS transport dials one working address of a `/dnsaddr` name. A probe tests all of them, so
//! it resolves the name itself.

use std::collections::VecDeque;

use libp2p::{Multiaddr, multiaddr::Protocol};
use peer_id_text::parse_multiaddr;

use super::failure::Cause;

/// Maximum number of TXT records of one name; rust-libp2p's clients use no more.
const MAX_TXT_RECORDS: usize = 16;

/// Maximum number of names that are resolved for one address; records may point to other names.
const MAX_LOOKUPS: usize = 32;

/// An address that does not lead to a relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// The address from the command line or from a record.
    pub(super) address: Multiaddr,
    /// The problem.
    pub(super) cause: Cause,
}

/// Replaces `/dnsaddr` names by the addresses in their TXT records.
///
/// The result has no duplicates. Failures to resolve a name do not affect other names.
pub(super) async fn relays(
    address: &Multiaddr,
    lookup: impl AsyncFn(String) -> Result<Vec<String>, Cause>,
) -> Vec<Result<Multiaddr, Unresolved>> {
    let mut found = Vec::new();
    let mut lookups = 0;
    let mut pending = VecDeque::from([address.clone()]);
    while let Some(address) = pending.pop_front() {
        let result = match split_at_name(&address) {
            None => Some(relay_address(&address)),
            Some(_) if lookups == MAX_LOOKUPS => Some(Err(Cause::new(format!(
                "more than {MAX_LOOKUPS} DNS lookups"
            )))),
            Some((name, suffix)) => {
                lookups += 1;
                match lookup(format!("_dnsaddr.{name}")).await {
                    Ok(records) => match addresses(&records, &suffix) {
                        addresses if addresses.is_empty() => Some(Err(no_record(&name, &suffix))),
                        addresses => {
                            pending.extend(addresses);
                            None
                        }
                    },
                    Err(cause) => Some(Err(with_default_hint(cause))),
                }
            }
        };
        if let Some(result) = result {
            let result = match result {
                Ok(()) => Ok(address),
                Err(cause) => Err(Unresolved { address, cause }),
            };
            if !found.contains(&result) {
                found.push(result);
            }
        }
    }
    found
}

/// The first `/dnsaddr` name of an address, and the rest after it.
fn split_at_name(address: &Multiaddr) -> Option<(String, Multiaddr)> {
    let mut parts = address.iter();
    let name = parts.find_map(|part| match part {
        Protocol::Dnsaddr(name) => Some(name.into_owned()),
        _ => None,
    })?;
    Some((name, parts.collect()))
}

/// The addresses in TXT records that end with `suffix`.
fn addresses(records: &[String], suffix: &Multiaddr) -> Vec<Multiaddr> {
    records
        .iter()
        .filter_map(|record| parse_multiaddr(record.strip_prefix("dnsaddr=")?).ok())
        .filter(|address| address.ends_with(suffix))
        .take(MAX_TXT_RECORDS)
        .collect()
}

fn relay_address(address: &Multiaddr) -> Result<(), Cause> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return Err(Cause::new("the address leads through a relay")
            .hint("use the relay's own address: the part before /p2p-circuit"));
    }
    Ok(())
}

/// The usual reason is a zone that its parent zone does not delegate.
fn with_default_hint(cause: Cause) -> Cause {
    let hint = cause.hint.clone().unwrap_or_else(|| {
        "is the name spelled correctly? if its zone is not delegated yet, query its name server with \
         --dns-server"
            .to_owned()
    });
    cause.hint(hint)
}

fn no_record(name: &str, suffix: &Multiaddr) -> Cause {
    let which = if suffix.is_empty() {
        String::new()
    } else {
        format!(" that ends with {suffix}")
    };
    Cause::new(format!(
        "no TXT record of _dnsaddr.{name} contains an address{which}"
    ))
    .hint("a record has the form: dnsaddr=/ip4/192.0.2.1/tcp/9000/p2p/12D3KooW…")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER_A: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    const PEER_B: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

    /// A fleet of two relays, with one name for each and one for both.
    async fn fleet(name: String) -> Result<Vec<String>, Cause> {
        match name.as_str() {
            "_dnsaddr.fleet.test" => Ok(vec![
                format!("dnsaddr=/dnsaddr/a.fleet.test/p2p/{PEER_A}"),
                format!("dnsaddr=/dnsaddr/b.fleet.test/p2p/{PEER_B}"),
                "v=spf1 -all".to_owned(),
            ]),
            "_dnsaddr.a.fleet.test" => Ok(vec![
                format!("dnsaddr=/ip4/192.0.2.1/tcp/9000/p2p/{PEER_A}"),
                format!("dnsaddr=/ip4/192.0.2.1/udp/9000/quic-v1/p2p/{PEER_A}"),
            ]),
            "_dnsaddr.b.fleet.test" => Ok(vec![format!(
                "dnsaddr=/ip4/192.0.2.2/tcp/9000/p2p/{PEER_B}"
            )]),
            "_dnsaddr.loop.test" => Ok(vec![
                "dnsaddr=/dnsaddr/loop.test".to_owned(),
                "dnsaddr=/dnsaddr/loop.test".to_owned(),
            ]),
            "_dnsaddr.many.test" => Ok((0..40)
                .map(|port| format!("dnsaddr=/ip4/192.0.2.1/tcp/{port}"))
                .collect()),
            _ => Err(Cause::new("no such name")),
        }
    }

    async fn resolve(address: &str) -> Vec<Result<String, String>> {
        relays(&address.parse().unwrap(), fleet)
            .await
            .into_iter()
            .map(|relay| match relay {
                Ok(address) => Ok(address.to_string()),
                Err(unresolved) => Err(unresolved.cause.message),
            })
            .collect()
    }

    #[tokio::test]
    async fn address_without_a_name_is_unchanged() {
        let address = format!("/dns4/relay.test/tcp/9000/p2p/{PEER_A}");
        assert_eq!(resolve(&address).await, [Ok(address)]);
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_resolved() {
        assert_eq!(
            resolve("/dnsaddr/fleet.test").await,
            [
                Ok(format!("/ip4/192.0.2.1/tcp/9000/p2p/{PEER_A}")),
                Ok(format!("/ip4/192.0.2.1/udp/9000/quic-v1/p2p/{PEER_A}")),
                Ok(format!("/ip4/192.0.2.2/tcp/9000/p2p/{PEER_B}")),
            ]
        );
    }

    #[tokio::test]
    async fn peer_id_after_the_name_filters_addresses() {
        assert_eq!(
            resolve(&format!("/dnsaddr/fleet.test/p2p/{PEER_B}")).await,
            [Ok(format!("/ip4/192.0.2.2/tcp/9000/p2p/{PEER_B}"))]
        );
    }

    #[tokio::test]
    async fn names_without_addresses_are_failures() {
        assert_eq!(
            resolve("/dnsaddr/gone.test").await,
            [Err("no such name".to_owned())]
        );
        let answer = resolve(&format!("/dnsaddr/a.fleet.test/p2p/{PEER_B}")).await;
        assert!(
            matches!(answer.as_slice(), [Err(cause)] if cause.contains(PEER_B)),
            "{answer:?}"
        );
    }

    #[tokio::test]
    async fn records_and_lookups_are_bounded() {
        assert_eq!(resolve("/dnsaddr/many.test").await.len(), MAX_TXT_RECORDS);
        let answer = resolve("/dnsaddr/loop.test").await;
        assert!(
            matches!(answer.as_slice(), [Err(cause)] if cause.contains("lookups")),
            "{answer:?}"
        );
    }

    #[tokio::test]
    async fn address_through_a_relay_is_an_error() {
        let answer = resolve(&format!("/ip4/192.0.2.1/tcp/1/p2p/{PEER_A}/p2p-circuit")).await;
        assert!(
            matches!(answer.as_slice(), [Err(cause)] if cause.contains("through a relay")),
            "{answer:?}"
        );
    }
}
