//! The circuits of the reservation table: their use by address prefixes, and eviction.
//!
//! A circuit counts for the prefixes of its source and, separately, for those of its target. While
//! at least three quarters of all circuits are in use, a prefix beyond its share gets no further
//! circuits. At a limit, one *unused* circuit, whose target has not sent a byte yet, may be
//! evicted; used circuits are never evicted.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use hashlink::LinkedHashMap;
use libp2p::PeerId;
use resource_manager::map_shrink::ShrinkIfSparse as _;
use resource_manager::{Exceeded, Prefix, Shares, Usage, excess, scarcity_threshold};

use crate::{circuit_state::CircuitState, deny_reason::DenyReason};

/// Both peers of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CircuitPeers {
    pub(super) source: PeerId,
    pub(super) source_ip: Option<IpAddr>,
    pub(super) target: PeerId,
    /// Where the target reserved from.
    pub(super) target_ip: Option<IpAddr>,
}

/// Limits of a [`CircuitTable`]; `None` is unlimited.
#[derive(Clone, Debug)]
pub(super) struct CircuitTableLimits {
    pub(super) total: Option<usize>,
    pub(super) per_target: Option<usize>,
    pub(super) shares: Shares,
}

/// All circuits that are open or being opened.
#[derive(Debug)]
pub(super) struct CircuitTable {
    limits: CircuitTableLimits,
    /// By number, from the oldest to the newest.
    circuits: LinkedHashMap<u64, CircuitEntry>,
    next: u64,
    sources: Usage,
    targets: Usage,
}

#[derive(Debug)]
struct CircuitEntry {
    ends: CircuitPeers,
    state: Arc<CircuitState>,
}

impl CircuitTable {
    pub(super) fn new(limits: CircuitTableLimits) -> Self {
        Self {
            limits,
            circuits: LinkedHashMap::new(),
            next: 0,
            sources: Usage::default(),
            targets: Usage::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.circuits.len()
    }

    /// Circuits of each address prefix of sources.
    pub(super) fn sources(&self) -> &Usage {
        &self.sources
    }

    /// Opens a circuit to a target that has `to_target` circuits already. Returns its number, and
    /// the peers of the circuit that was evicted for it, if any; the state of that one is marked.
    ///
    /// # Errors
    /// The limit or share that is reached. The table is unchanged.
    pub(super) fn open(
        &mut self,
        ends: CircuitPeers,
        to_target: usize,
        state: &Arc<CircuitState>,
    ) -> Result<(u64, Option<CircuitPeers>), DenyReason> {
        let evicted = self.check(&ends, to_target)?;
        let evicted = evicted.and_then(|number| {
            let circuit = self.remove(number)?;
            circuit.state.evict();
            Some(circuit.ends)
        });
        let number = self.next;
        self.next += 1;
        self.sources.add(ends.source_ip);
        self.targets.add(ends.target_ip);
        let state = Arc::clone(state);
        self.circuits.insert(number, CircuitEntry { ends, state });
        Ok((number, evicted))
    }

    /// Closes a circuit. Returns its peers, unless it is closed or evicted already.
    pub(super) fn close(&mut self, number: u64) -> Option<CircuitPeers> {
        self.remove(number).map(|circuit| circuit.ends)
    }

    fn remove(&mut self, number: u64) -> Option<CircuitEntry> {
        let circuit = self.circuits.remove(&number)?;
        self.circuits.shrink_if_sparse();
        self.sources.remove(circuit.ends.source_ip);
        self.targets.remove(circuit.ends.target_ip);
        Some(circuit)
    }

    /// Checks the limits for one more circuit. Returns the number of the circuit that has to be
    /// evicted for it, if any.
    fn check(&self, ends: &CircuitPeers, to_target: usize) -> Result<Option<u64>, DenyReason> {
        let capacity = self.limits.total.map(|total| total as u64);
        let shares = &self.limits.shares;
        if self.sources.check(ends.source_ip, capacity, shares) == Err(Exceeded::Share) {
            return Err(if self.is_below_capacity(capacity) {
                DenyReason::CircuitShare
            } else {
                DenyReason::Circuits
            });
        }
        if to_target > 0 && self.exceeds_part_of_target(ends) {
            return Err(DenyReason::TargetShare);
        }
        if self.limits.per_target.is_some_and(|max| to_target >= max) {
            // The evicted circuit leads to the same target, so no other limit changes.
            let unused = self.unused_to_target(ends.target);
            return unused.map(Some).ok_or(DenyReason::TargetCircuits);
        }
        match self.targets.check(ends.target_ip, capacity, shares) {
            Ok(()) => Ok(None),
            Err(Exceeded::Share) => {
                let unused = self.unused_to_prefixes(ends);
                match unused {
                    Some(_) => Ok(unused),
                    // Other sources use up the share of the target's prefix. That must not deny
                    // this source while there is capacity.
                    None if self.is_below_capacity(capacity)
                        && !self.exceeds_share_of_target(ends, capacity) =>
                    {
                        Ok(None)
                    }
                    None => Err(DenyReason::TargetShare),
                }
            }
            Err(Exceeded::Capacity) => {
                let unused = capacity.and_then(|capacity| self.unused_to_give_way(ends, capacity));
                unused.map(Some).ok_or(DenyReason::Circuits)
            }
        }
    }

    fn unused(&self) -> impl DoubleEndedIterator<Item = (u64, &CircuitPeers)> {
        self.circuits
            .iter()
            .filter(|(_, circuit)| !circuit.state.is_used())
            .map(|(number, circuit)| (*number, &circuit.ends))
    }

    fn is_below_capacity(&self, capacity: Option<u64>) -> bool {
        capacity.is_none_or(|capacity| (self.circuits.len() as u64) < capacity)
    }

    /// Whether the source's host prefix uses its share of the share of the target's host prefix.
    fn exceeds_share_of_target(&self, ends: &CircuitPeers, capacity: Option<u64>) -> bool {
        let (Some(hosts), Some(capacity)) = (hosts(ends), capacity) else {
            return false;
        };
        let is_of_pair = |circuit: &&CircuitEntry| self::hosts(&circuit.ends) == Some(hosts);
        let circuits = self.circuits.values().filter(is_of_pair).count();
        self.uses_share_of_target(hosts, circuits as u64, capacity)
    }

    /// Whether this number of circuits from one host prefix to another is the share of the first in
    /// the share of the second.
    fn uses_share_of_target(
        &self,
        (source, target): (Prefix, Prefix),
        circuits: u64,
        capacity: u64,
    ) -> bool {
        let shares = &self.limits.shares;
        let part = shares.of(target).part_of(capacity);
        circuits >= shares.of(source).part_of(part)
    }

    /// Whether a prefix of the source uses its part of the circuits to the target. The part is a
    /// half of the limit for a host and three quarters for a wider prefix, rounded up, or the
    /// prefix's configured share if that is larger.
    fn exceeds_part_of_target(&self, ends: &CircuitPeers) -> bool {
        let (Some(most), Some(ip)) = (self.limits.per_target, ends.source_ip) else {
            return false;
        };
        let most = most as u64;
        let has_part = |prefix: Prefix| {
            let least = if prefix.is_host() {
                most.div_ceil(2)
            } else {
                scarcity_threshold(most)
            };
            let part = self.limits.shares.of(prefix).part_of(most).max(least);
            let is_of_pair = |circuit: &&CircuitEntry| {
                let source = circuit.ends.source_ip;
                circuit.ends.target == ends.target && source.is_some_and(|ip| prefix.contains(ip))
            };
            part < most && self.circuits.values().filter(is_of_pair).count() as u64 >= part
        };
        Prefix::scopes(ip).any(has_part)
    }

    /// The oldest unused circuit to `target` of the source prefix that has most of them.
    fn unused_to_target(&self, target: PeerId) -> Option<u64> {
        // For each source prefix: the number of its unused circuits, and the oldest one.
        let mut prefixes = HashMap::new();
        for (number, ends) in self.unused().filter(|(_, ends)| ends.target == target) {
            match prefixes.entry(source_host(ends)) {
                Entry::Vacant(entry) => {
                    entry.insert((1, number));
                }
                Entry::Occupied(mut entry) => entry.get_mut().0 += 1,
            }
        }
        prefixes
            .into_values()
            .max_by_key(|(count, oldest)| (*count, Reverse(*oldest)))
            .map(|(_, oldest)| oldest)
    }

    /// The newest unused circuit to the target's widest prefix, of the source host that uses most
    /// circuits, if that host uses more than the source of `ends`.
    fn unused_to_prefixes(&self, ends: &CircuitPeers) -> Option<u64> {
        let use_of =
            |ends: &CircuitPeers| source_host(ends).map_or(0, |host| self.sources.of(host));
        // Prefixes are nested: addresses that share any prefix share the widest one.
        let widest = |ends: &CircuitPeers| ends.target_ip.and_then(|ip| Prefix::scopes(ip).last());
        let target = widest(ends);
        let is_near = |other: &CircuitPeers| target.is_some() && widest(other) == target;
        self.unused()
            .filter(|(_, other)| is_near(other) && use_of(other) > use_of(ends))
            .max_by_key(|(number, other)| (use_of(other), *number))
            .map(|(number, _)| number)
    }

    /// The newest unused circuit of the prefix that uses most of its share of `capacity`: of a source
    /// prefix that uses more than the source of `ends`, or a target prefix beyond its share.
    fn unused_to_give_way(&self, ends: &CircuitPeers, capacity: u64) -> Option<u64> {
        let shares = &self.limits.shares;
        let sources = self.sources.heavier_than(ends.source_ip, capacity, shares);
        let targets = self.targets.beyond_share(capacity, &self.limits.shares);
        let mut pairs = HashMap::new();
        if !targets.is_empty() {
            for hosts in self
                .circuits
                .values()
                .filter_map(|circuit| hosts(&circuit.ends))
            {
                *pairs.entry(hosts).or_insert(0_u64) += 1;
            }
        }
        // For a target's prefix, only the sources that use up its share are candidates.
        let uses_share_of_target = |ends: &CircuitPeers| {
            let pair = hosts(ends).and_then(|hosts| Some((hosts, *pairs.get(&hosts)?)));
            pair.is_some_and(|(hosts, circuits)| {
                self.uses_share_of_target(hosts, circuits, capacity)
            })
        };
        self.unused()
            .filter_map(|(number, ends)| {
                let source = excess(ends.source_ip, &sources);
                let target =
                    excess(ends.target_ip, &targets).filter(|_| uses_share_of_target(ends));
                Some((source.max(target)?, number))
            })
            .max()
            .map(|(_, number)| number)
    }
}

/// Host prefixes of source and target.
fn hosts(ends: &CircuitPeers) -> Option<(Prefix, Prefix)> {
    source_host(ends).zip(ends.target_ip.map(Prefix::host))
}

fn source_host(ends: &CircuitPeers) -> Option<Prefix> {
    ends.source_ip.map(Prefix::host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(total: usize, per_target: usize) -> CircuitTable {
        CircuitTable::new(CircuitTableLimits {
            total: Some(total),
            per_target: Some(per_target),
            shares: Shares::default(),
        })
    }

    fn ends(source_ip: &str, target: PeerId, target_ip: &str) -> CircuitPeers {
        CircuitPeers {
            source: PeerId::random(),
            source_ip: Some(source_ip.parse().unwrap()),
            target,
            target_ip: Some(target_ip.parse().unwrap()),
        }
    }

    /// Opens a circuit; returns its number and state.
    fn open(
        table: &mut CircuitTable,
        ends: CircuitPeers,
    ) -> Result<(u64, Arc<CircuitState>), DenyReason> {
        let to = |circuit: &&CircuitEntry| circuit.ends.target == ends.target;
        let to_target = table.circuits.values().filter(to).count();
        let state = Arc::new(CircuitState::default());
        let (number, _) = table.open(ends, to_target, &state)?;
        Ok((number, state))
    }

    const ATTACKER: &str = "192.0.2.1";
    const CLIENT: &str = "198.51.100.1";

    #[test]
    fn one_address_uses_three_quarters_and_is_evicted_for_others() {
        let mut table = table(16, 16);
        // Each target has another prefix, so that only the source is beyond its share.
        let target = |n: u8| format!("203.0.{n}.1");
        let mut taken = Vec::new();
        for n in 0..12 {
            let state = open(&mut table, ends(ATTACKER, PeerId::random(), &target(n)));
            taken.push(state.unwrap().1);
        }
        let refused = open(&mut table, ends(ATTACKER, PeerId::random(), &target(12)));
        assert_eq!(refused.unwrap_err(), DenyReason::CircuitShare);
        taken[11].mark_used();
        for n in 0..8 {
            let client = format!("198.51.{n}.1");
            open(&mut table, ends(&client, PeerId::random(), &target(20 + n))).unwrap();
        }
        assert_eq!(table.len(), 16);
        let evicted: Vec<_> = taken
            .iter()
            .map(|state| state.evicted().is_cancelled())
            .collect();
        let (first, last) = evicted.split_at(7);
        assert!(
            first.iter().all(|evicted| !evicted),
            "the newest are evicted"
        );
        assert_eq!(last, [true, true, true, true, false], "except used ones");
    }

    #[test]
    fn used_circuits_are_never_evicted() {
        let mut table = table(8, 8);
        for n in 0..6 {
            let ends = ends(ATTACKER, PeerId::random(), &format!("203.0.{n}.1"));
            open(&mut table, ends).unwrap().1.mark_used();
        }
        for n in 0..3 {
            let client = format!("198.51.{n}.1");
            let target_ip = format!("203.1.{n}.1");
            let result = open(&mut table, ends(&client, PeerId::random(), &target_ip));
            assert_eq!(result.err(), (n == 2).then_some(DenyReason::Circuits));
        }
    }

    #[test]
    fn unused_circuits_to_a_target_are_evicted_for_a_new_source() {
        let mut table = table(100, 5);
        let target = PeerId::random();
        let unused: Vec<_> = (0..3)
            .map(|_| open(&mut table, ends(ATTACKER, target, "203.0.113.1")).unwrap())
            .collect();
        let more = open(&mut table, ends(ATTACKER, target, "203.0.113.1"));
        assert_eq!(more.unwrap_err(), DenyReason::TargetShare);
        let others = ["192.0.3.2", "192.0.4.2"]
            .map(|ip| open(&mut table, ends(ip, target, "203.0.113.1")).unwrap());
        let (_, client) = open(&mut table, ends(CLIENT, target, "203.0.113.1")).unwrap();
        assert!(
            unused[0].1.evicted().is_cancelled(),
            "the oldest of the prefix with most"
        );
        assert!(
            others
                .iter()
                .all(|(_, state)| !state.evicted().is_cancelled())
        );
        client.mark_used();
        assert_eq!(table.close(unused[0].0), None, "already closed");
        assert_eq!(table.len(), 5);
        for (_, state) in unused.iter().chain(&others) {
            state.mark_used();
        }
        let full = open(&mut table, ends("198.51.100.2", target, "203.0.113.1"));
        assert_eq!(full.unwrap_err(), DenyReason::TargetCircuits);
    }

    #[test]
    fn other_sources_connect_when_one_source_fills_the_share_of_a_target_prefix() {
        let mut table = table(16, 16);
        for _ in 0..12 {
            open(&mut table, ends(ATTACKER, PeerId::random(), "203.0.113.1")).unwrap();
        }
        // One source uses up the share of the target's prefix.
        open(&mut table, ends(CLIENT, PeerId::random(), "203.0.113.1")).unwrap();
        assert_eq!(table.len(), 12);
        // Another prefix has capacity.
        open(&mut table, ends(CLIENT, PeerId::random(), "203.0.114.1")).unwrap();
        assert_eq!(table.len(), 13);
    }

    #[test]
    fn closed_circuits_leave_no_state() {
        let mut table = table(16, 5);
        let numbers: Vec<_> = (0..10)
            .map(|_| {
                open(&mut table, ends(ATTACKER, PeerId::random(), CLIENT))
                    .unwrap()
                    .0
            })
            .collect();
        for number in numbers {
            assert!(table.close(number).is_some());
            assert_eq!(table.close(number), None);
        }
        assert_eq!(
            (table.len(), table.sources.total(), table.targets.total()),
            (0, 0, 0)
        );
        assert_eq!(table.sources.largest(), None);
    }
}
