//! Which relays are there and fit now. Pure: rounds of answers are passed in.
//!
//! - A relay that says that it is ready is listed.
//! - One that says anything else (it starts, drains, stops) is not listed from that round on. Its
//!   own name stays while it answers: those who hold its address may still reach it.
//! - One that does not answer is forgiven one round: a lost packet is no failure.
//! - If no relay is ready, those that were ready when they were last entry of are listed again: the
//!   last good set. It is the server that has lost its way then, most likely; and if they are
//!   really gone, a wrong address costs a client no more than none. A relay that has said that it
//!   drains is not among them: it refuses newcomers, and being refused is dearer to clients than
//!   finding nobody, as go's shun a relay for an hour after that. So if all relays drain, the set
//!   is empty.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::{
    config::MAX_RELAYS,
    dnsaddr::{Member, dedup_labels},
    status::RelayStatus,
};

/// Rounds in a row that a relay may miss before it counts as silent.
const MAX_MISSED_POLLS: u32 = 1;
/// Rounds in a row after which a silent relay is forgotten, while others are ready: about a minute.
/// Those that fell silent together with the last one have been silent for less.
const FORGET_AFTER_POLLS: u32 = 120;

/// What is known of the relays.
#[derive(Debug, Default)]
pub struct Directory {
    relays: BTreeMap<PeerId, RelayEntry>,
}

#[derive(Debug)]
struct RelayEntry {
    last: RelayStatus,
    /// Rounds since then.
    missed: u32,
}

/// The relays that belong into the zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those that clients are sent to.
    pub listed: Vec<Member>,
    /// Those that only their own names lead to.
    pub unlisted: Vec<Member>,
    /// Whether the list is good.
    pub state: ZoneState,
}

/// Whether a list is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZoneState {
    /// No relay has ever answered, or not yet all that may be there.
    #[default]
    Unknown,
    /// As the relays say.
    Current,
    /// The last good one: no relay is ready, and some that were are silent.
    Stale,
}

/// How many relays there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// They serve everybody.
    pub ready: usize,
    /// They answer, but are not ready.
    pub unready: usize,
    /// They do not answer.
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
    /// Takes the answers of one round. Of two with one peer id, one that is ready counts: a name
    /// may lead to a relay by several addresses, or to its successor.
    pub fn update(&mut self, reports: impl IntoIterator<Item = RelayStatus>) {
        for entry in self.relays.values_mut() {
            entry.missed = entry.missed.saturating_add(1);
        }
        for report in reports {
            let id = *report.member.peer_id();
            let is_second = self.relays.get(&id).is_some_and(|entry| entry.missed == 0);
            if report.is_ready || !is_second {
                let entry = RelayEntry {
                    last: report,
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

    /// The relays that belong into the zone now.
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

    /// How many relays there are of each kind.
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

    /// One round, in which these are ready and those drain.
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
    fn nothing_is_known_before_the_first_answer() {
        let mut directory = Directory::default();
        assert_eq!(directory.listing(), Listing::default());
        update(&mut directory, &[], &[]);
        assert_eq!(directory.listing().state, ZoneState::Unknown);
    }

    #[test]
    fn a_draining_relay_is_dropped_at_once_and_keeps_its_name() {
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
    fn a_silent_relay_is_forgiven_one_round() {
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
    fn the_last_good_set_stays_when_all_are_silent() {
        let [a, b, c] = ids();
        let mut directory = Directory::default();
        update(&mut directory, &[a, b, c], &[]);
        // They are lost one after the other, as timeouts have it.
        update(&mut directory, &[b, c], &[]);
        update(&mut directory, &[c], &[]);
        for _ in 0..1000 {
            update(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![a, b, c], ZoneState::Stale));
        // Whoever comes back ends it.
        update(&mut directory, &[b], &[]);
        assert_eq!(listed(&directory), (vec![b], ZoneState::Current));
        assert_eq!(directory.counts().silent, 0, "they were silent for long");
    }

    #[test]
    fn who_was_gone_for_long_is_not_in_the_last_good_set() {
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
    fn who_said_goodbye_is_not_in_the_last_good_set() {
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
    fn of_two_answers_the_ready_one_counts() {
        let [a] = ids();
        for is_first_ready in [true, false] {
            let mut directory = Directory::default();
            directory.update([report(a, is_first_ready), report(a, !is_first_ready)]);
            assert_eq!(listed(&directory), (vec![a], ZoneState::Current));
        }
    }

    /// A hostile relay that is another one each time.
    #[test]
    fn memory_is_bounded() {
        let mut directory = Directory::default();
        for _ in 0..2 * MAX_RELAYS {
            update(&mut directory, &[PeerId::random()], &[]);
        }
        assert!(directory.relays.len() <= MAX_RELAYS);
    }
}
