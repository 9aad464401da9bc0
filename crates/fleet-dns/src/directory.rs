//! Which relays are up and ready. No I/O: the statuses of each poll are passed in.
//!
//! - A relay that reports that it is ready is listed.
//! - A relay that reports another phase (starting, draining, stopped) is removed from the list at
//!   that poll. Its own name stays while it responds, for clients that have its address.
//! - A relay may miss one poll: a lost packet is not a failure.
//! - If no relay is ready, the relays that were ready at their last response are listed again: the
//!   last good set. Most likely the DNS server has lost its network; and if the relays are really
//!   down, a stale address costs a client no more than an empty answer. Draining relays are not part
//!   of the set: they refuse new reservations, and go-libp2p then avoids a relay for an hour, which
//!   is worse than an empty answer. If all relays drain, the set is empty.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::{
    config::MAX_RELAYS,
    dnsaddr::{Member, dedup_labels},
    status::RelayStatus,
};

/// Consecutive polls that a relay may miss before it counts as silent.
const MAX_MISSED_POLLS: u32 = 1;
/// Consecutive missed polls after which a silent relay is forgotten, while others are ready: about a
/// minute. Relays that fell silent together with the last one have missed fewer.
const FORGET_AFTER_POLLS: u32 = 120;

/// The known relays.
#[derive(Debug, Default)]
pub struct Directory {
    relays: BTreeMap<PeerId, RelayEntry>,
}

#[derive(Debug)]
struct RelayEntry {
    last: RelayStatus,
    /// Polls since then.
    missed: u32,
}

/// The relays to publish in the zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Relays that are part of the fleet's own record set.
    pub listed: Vec<Member>,
    /// Relays that are published under their names only.
    pub unlisted: Vec<Member>,
    /// Whether the list is up to date.
    pub state: ZoneState,
}

/// Whether the list of relays is up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZoneState {
    /// No relay has responded yet, or not all of them at startup.
    #[default]
    Unknown,
    /// The list follows from the latest poll.
    Current,
    /// The list is the last good set: no relay is ready, and some that were ready are silent.
    Stale,
}

/// Number of relays by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Relays that status that they are ready.
    pub ready: usize,
    /// Relays that respond, but are not ready.
    pub unready: usize,
    /// Relays that do not respond.
    pub silent: usize,
}

impl RelayEntry {
    fn is_silent(&self) -> bool {
        self.missed > MAX_MISSED_POLLS
    }

    fn is_ready(&self) -> bool {
        self.last.is_ready && !self.is_silent()
    }
}

impl Directory {
    /// Applies the statuses of one poll. If two have the same peer id, a ready one takes precedence:
    /// a name may resolve to several addresses of a relay, or to its successor.
    pub fn update(&mut self, statuses: impl IntoIterator<Item = RelayStatus>) {
        for entry in self.relays.values_mut() {
            entry.missed = entry.missed.saturating_add(1);
        }
        for status in statuses {
            let id = *status.member.peer_id();
            let is_second = self.relays.get(&id).is_some_and(|entry| entry.missed == 0);
            if status.is_ready || !is_second {
                let entry = RelayEntry {
                    last: status,
                    missed: 0,
                };
                self.relays.insert(id, entry);
            }
        }
        if self.relays.values().any(RelayEntry::is_ready) {
            self.relays
                .retain(|_, entry| entry.missed < FORGET_AFTER_POLLS);
        }
        while self.relays.len() > MAX_RELAYS {
            let oldest = self.relays.iter().max_by_key(|(_, entry)| entry.missed);
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                break;
            };
            self.relays.remove(&oldest);
        }
    }

    /// The relays to publish now.
    pub fn listing(&self) -> Listing {
        let members = |is_wanted: fn(&RelayEntry) -> bool| -> Vec<Member> {
            let wanted = self.relays.values().filter(|entry| is_wanted(entry));
            wanted.map(|entry| entry.last.member.clone()).collect()
        };
        let mut listed = members(RelayEntry::is_ready);
        let mut state = ZoneState::Current;
        if listed.is_empty() {
            listed = members(|entry| entry.last.is_ready);
            if !listed.is_empty() {
                state = ZoneState::Stale;
            } else if self.relays.is_empty() {
                state = ZoneState::Unknown;
            }
        }
        let unlisted = members(|entry| !entry.last.is_ready && !entry.is_silent());
        let first_unlisted = listed.len();
        let mut all = listed;
        all.extend(unlisted);
        dedup_labels(&mut all);
        let unlisted = all.split_off(first_unlisted);
        Listing {
            listed: all,
            unlisted,
            state,
        }
    }

    /// Number of relays by state.
    pub fn counts(&self) -> RelayCounts {
        let mut counts = RelayCounts::default();
        for entry in self.relays.values() {
            let count = if entry.is_silent() {
                &mut counts.silent
            } else if entry.last.is_ready {
                &mut counts.ready
            } else {
                &mut counts.unready
            };
            *count += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<const N: usize>() -> [PeerId; N] {
        let mut ids = [(); N].map(|()| PeerId::random());
        ids.sort();
        ids
    }

    fn report(id: PeerId, is_ready: bool) -> RelayStatus {
        let address = "/ip4/192.0.2.1/tcp/9000".parse().unwrap();
        RelayStatus {
            member: Member::new(None, id, vec![address]),
            is_ready,
        }
    }

    /// One poll, with these relays ready and these draining.
    fn update(directory: &mut Directory, ready: &[PeerId], draining: &[PeerId]) {
        let ready = ready.iter().map(|id| report(*id, true));
        let draining = draining.iter().map(|id| report(*id, false));
        directory.update(ready.chain(draining));
    }

    fn listed(directory: &Directory) -> (Vec<PeerId>, ZoneState) {
        let listing = directory.listing();
        let ids = listing.listed.iter().map(|member| *member.peer_id());
        (ids.collect(), listing.state)
    }

    #[test]
    fn state_is_unknown_before_first_status() {
        let mut directory = Directory::default();
        assert_eq!(directory.listing(), Listing::default());
        update(&mut directory, &[], &[]);
        assert_eq!(directory.listing().state, ZoneState::Unknown);
    }

    #[test]
    fn draining_relay_is_unlisted_at_once_and_keeps_its_name() {
        let [a, b] = ids();
        let mut directory = Directory::default();
        update(&mut directory, &[a, b], &[]);
        update(&mut directory, &[a], &[b]);
        assert_eq!(listed(&directory), (vec![a], ZoneState::Current));
        assert_eq!(directory.listing().unlisted, [report(b, false).member]);
        for _ in 0..2 {
            update(&mut directory, &[a], &[]);
        }
        assert_eq!(directory.listing().unlisted, []);
        update(&mut directory, &[a, b], &[]);
        assert_eq!(listed(&directory), (vec![a, b], ZoneState::Current));
    }

    #[test]
    fn relay_may_miss_one_poll() {
        let [a, b] = ids();
        let mut directory = Directory::default();
        update(&mut directory, &[a, b], &[]);
        update(&mut directory, &[a], &[]);
        assert_eq!(listed(&directory).0, [a, b]);
        update(&mut directory, &[a], &[]);
        assert_eq!(listed(&directory), (vec![a], ZoneState::Current));
        let expected = RelayCounts {
            ready: 1,
            unready: 0,
            silent: 1,
        };
        assert_eq!(directory.counts(), expected);
    }

    #[test]
    fn last_good_set_stays_when_all_relays_are_silent() {
        let [a, b, c] = ids();
        let mut directory = Directory::default();
        update(&mut directory, &[a, b, c], &[]);
        // They fall silent one after the other, as timeouts do.
        update(&mut directory, &[b, c], &[]);
        update(&mut directory, &[c], &[]);
        for _ in 0..1000 {
            update(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![a, b, c], ZoneState::Stale));
        // One relay that responds again ends it.
        update(&mut directory, &[b], &[]);
        assert_eq!(listed(&directory), (vec![b], ZoneState::Current));
        assert_eq!(directory.counts().silent, 0, "they were silent for long");
    }

    #[test]
    fn relay_silent_for_long_is_not_in_the_last_good_set() {
        let [a, b] = ids();
        let mut directory = Directory::default();
        update(&mut directory, &[a, b], &[]);
        for _ in 0..FORGET_AFTER_POLLS {
            update(&mut directory, &[a], &[]);
        }
        for _ in 0..5 {
            update(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![a], ZoneState::Stale));
    }

    #[test]
    fn relay_that_drained_is_not_in_the_last_good_set() {
        let [a, b] = ids();
        let mut directory = Directory::default();
        update(&mut directory, &[a, b], &[]);
        update(&mut directory, &[b], &[a]);
        for _ in 0..5 {
            update(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![b], ZoneState::Stale));

        let mut directory = Directory::default();
        update(&mut directory, &[a, b], &[]);
        update(&mut directory, &[], &[a, b]);
        assert_eq!(listed(&directory), (vec![], ZoneState::Current));
        for _ in 0..5 {
            update(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![], ZoneState::Current));
    }

    #[test]
    fn ready_status_takes_precedence_among_two() {
        let [a] = ids();
        for is_first_ready in [true, false] {
            let mut directory = Directory::default();
            directory.update([report(a, is_first_ready), report(a, !is_first_ready)]);
            assert_eq!(listed(&directory), (vec![a], ZoneState::Current));
        }
    }

    /// A hostile relay with another peer id at each poll.
    #[test]
    fn number_of_relays_is_bounded() {
        let mut directory = Directory::default();
        for _ in 0..2 * MAX_RELAYS {
            update(&mut directory, &[PeerId::random()], &[]);
        }
        assert!(directory.relays.len() <= MAX_RELAYS);
    }
}
