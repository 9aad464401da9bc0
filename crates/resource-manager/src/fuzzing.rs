//! Entry point of a fuzzer.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    task::{Context, Poll, Waker},
};

use super::{
    ConnectionMemory, Exceeded, GUARANTEED_BYTES, MAX_SCOPES, Prefix, Relief, ResourceLimits,
    Resources, Shares, Usage, excess, memory::MIN_RELIEF_BYTES, scarcity_threshold,
};
use crate::CircuitLimits;

/// Limit of all buffers in bytes: a few times the guarantee of a connection, so that it is reached.
const BUFFERED: u64 = 8 * GUARANTEED_BYTES;
/// Limit of the buffers of one connection in bytes.
const MAX_PER_CONNECTION: u64 = BUFFERED / 2;
/// Simultaneous connections.
const CONNECTIONS: usize = 16;
/// Capacity of resources that are counted in units.
const CAPACITY: u64 = 16;

/// Executes the steps in `bytes`. Each step has three bytes: its kind, a connection or address, and
/// an amount. Grants, reads, resets and closes occur in any order. Checks that sums are exact and
/// never negative, that no limit is exceeded, and that nothing is in use at the end.
pub fn resources(bytes: &[u8]) {
    memory(bytes);
    usage(bytes);
}

/// One of a few addresses, some of which share prefixes.
fn address(number: u8) -> IpAddr {
    let (network, host) = (number >> 1 & 3, number & 1);
    if number & 8 == 0 {
        Ipv4Addr::new(192, 0, network, host).into()
    } else {
        let network = u16::from(network) << 7;
        Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host.into()).into()
    }
}

/// A connection, and the bytes that it holds according to the steps.
struct Held {
    memory: ConnectionMemory,
    address: Option<IpAddr>,
    bytes: u64,
}

fn memory(bytes: &[u8]) {
    let limits = ResourceLimits {
        buffered: Some(BUFFERED),
        ..ResourceLimits::new(None, None, &CircuitLimits::default())
    };
    let shares = Shares::default();
    let resources = Resources::new(limits, shares.clone());
    let mut connections: Vec<Held> = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    let (steps, _) = bytes.as_chunks::<3>();
    for [step, which, amount] in steps {
        let number = usize::from(*which) % CONNECTIONS;
        // Up to a third of the limit.
        let amount = u64::from(*amount) * (BUFFERED / 3 / 255);
        if step % 8 == 0 && connections.len() < CONNECTIONS {
            connections.push(Held {
                memory: ConnectionMemory::new(resources.clone()),
                address: None,
                bytes: 0,
            });
        }
        let before = pooled_by_prefix(&connections);
        let all: u64 = connections.iter().map(|held| pooled(held.bytes)).sum();
        let Some(held) = connections.get_mut(number) else {
            continue;
        };
        match step % 8 {
            // A grant: bytes arrive if they are within the limits.
            0..=2 => {
                let then = held.bytes + amount;
                let more = pooled(then) - pooled(held.bytes);
                if held.memory.has_room(amount, MAX_PER_CONNECTION) {
                    assert!(then <= MAX_PER_CONNECTION, "{then} bytes of a connection");
                    let is_within = |prefix: Prefix| {
                        let used = before.get(&prefix).copied().unwrap_or(0);
                        used + more <= shares.of(prefix).part_of(BUFFERED)
                    };
                    let is_within_shares = || prefixes(held.address).all(is_within);
                    assert!(
                        then <= GUARANTEED_BYTES
                            || all + more <= scarcity_threshold(BUFFERED)
                            || (all + more <= BUFFERED && is_within_shares()),
                        "{more} bytes more than {all}"
                    );
                    held.memory.charge(amount);
                    held.bytes = then;
                }
            }
            // A read, sometimes of more than is held.
            3 => {
                held.memory.release(amount);
                held.bytes -= amount.min(held.bytes);
            }
            // A reset releases all bytes.
            4 => {
                let bytes = std::mem::take(&mut held.bytes);
                held.memory.release(bytes);
            }
            // The address is proven, or changes.
            5 => {
                let address = address(which >> 4);
                held.memory.attribute_to(address);
                held.address = Some(address);
            }
            // Memory runs out.
            6 => {
                // Connections within their guarantee are candidates only if there are no others.
                let count = |least: u64| {
                    let large = connections.iter().filter(|held| held.bytes >= least);
                    large.count()
                };
                let (least, large) = match count(GUARANTEED_BYTES + 1) {
                    0 => (MIN_RELIEF_BYTES, count(MIN_RELIEF_BYTES)),
                    large => (GUARANTEED_BYTES + 1, large),
                };
                let asked = resources.relieve_connections(amount).connections;
                assert!(asked <= large, "{asked} of {large} connections");
                let mut relieved = 0;
                for held in &connections {
                    if let Poll::Ready(Relief::ResetStreams | Relief::Close) =
                        held.memory.poll_relief(&mut cx)
                    {
                        assert!(held.bytes >= least, "{} bytes", held.bytes);
                        relieved += 1;
                    }
                }
                assert_eq!(relieved, asked);
            }
            // A close, whatever is held. A clone of the account does not count twice.
            _ => {
                let held = connections.swap_remove(number);
                drop(held.memory.clone());
            }
        }
        check(&resources, &connections);
    }
    connections.clear();
    check(&resources, &connections);
}

fn check(resources: &Resources, connections: &[Held]) {
    for held in connections {
        assert_eq!(held.memory.held(), held.bytes);
    }
    let all: u64 = connections.iter().map(|held| held.bytes).sum();
    assert_eq!(resources.buffered_bytes(), all);
    // Connections may have their guarantee beyond the total limit.
    let most = BUFFERED + GUARANTEED_BYTES * connections.len() as u64;
    assert!(all <= most, "{all} bytes");
}

fn prefixes(address: Option<IpAddr>) -> impl Iterator<Item = Prefix> {
    address.into_iter().flat_map(Prefix::scopes)
}

/// Bytes that a connection holds beyond its guarantee.
fn pooled(bytes: u64) -> u64 {
    bytes.saturating_sub(GUARANTEED_BYTES)
}

fn pooled_by_prefix(connections: &[Held]) -> HashMap<Prefix, u64> {
    let mut bytes = HashMap::new();
    for held in connections {
        for prefix in prefixes(held.address) {
            *bytes.entry(prefix).or_default() += pooled(held.bytes);
        }
    }
    bytes
}

/// The same for resources that are counted in units: connections, reservations, circuits.
fn usage(bytes: &[u8]) {
    let shares = Shares::default();
    let mut usage = Usage::default();
    let mut units: Vec<Option<IpAddr>> = Vec::new();
    let (steps, _) = bytes.as_chunks::<3>();
    for [step, which, amount] in steps {
        match step % 4 {
            // A grant, sometimes without an address.
            0..=2 => {
                let ip = (amount % 8 > 0).then(|| address(*which));
                let used = usage.total();
                match usage.check(ip, Some(CAPACITY), &shares) {
                    Ok(()) => {
                        assert!(used < CAPACITY, "{used} units");
                        usage.add(ip);
                        units.push(ip);
                    }
                    Err(Exceeded::Capacity) => assert!(used >= CAPACITY, "{used} units"),
                    Err(Exceeded::Share) => {
                        assert!(used >= scarcity_threshold(CAPACITY), "{used} units");
                    }
                }
            }
            // A close.
            _ => {
                if !units.is_empty() {
                    let ip = units.swap_remove(usize::from(*which) % units.len());
                    usage.remove(ip);
                }
            }
        }
        check_usage(&usage, &units, &shares);
    }
    for ip in std::mem::take(&mut units) {
        usage.remove(ip);
    }
    check_usage(&usage, &units, &shares);
    assert_eq!(usage.largest(), None);
}

fn check_usage(usage: &Usage, units: &[Option<IpAddr>], shares: &Shares) {
    assert_eq!(usage.total(), units.len() as u64);
    assert!(usage.total() <= CAPACITY);
    let mut counts: HashMap<Prefix, u64> = HashMap::new();
    for ip in units {
        let before = counts.len();
        for prefix in prefixes(*ip) {
            *counts.entry(prefix).or_default() += 1;
        }
        assert!(counts.len() - before <= MAX_SCOPES);
    }
    for (prefix, count) in &counts {
        assert_eq!(usage.of(*prefix), *count, "{prefix}");
    }
    let beyond = usage.beyond_share(CAPACITY, shares);
    let is_beyond = |prefix: &Prefix, count: u64| count > shares.of(*prefix).part_of(CAPACITY);
    let expected = counts
        .iter()
        .filter(|(prefix, count)| is_beyond(prefix, **count));
    assert_eq!(beyond.len(), expected.count());
    for ip in units {
        let is_excessive = prefixes(*ip).any(|prefix| beyond.contains_key(&prefix));
        assert_eq!(excess(*ip, &beyond).is_some(), is_excessive);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn resources_invariants_hold() {
        fuzz_support::check_invariants("resources", super::resources);
    }
}
