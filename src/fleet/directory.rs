//! Which relays are there and fit now. Pure: rounds of answers are passed in.
//!
//! - A relay that says that it is ready is listed.
//! - One that says anything else (it starts, drains, stops) is not listed from that round on. Its
//!   own name stays while it answers: those who hold its address may still reach it.
//! - One that does not answer is forgiven one round: a lost packet is no failure.
//! - If no relay is ready, those that were ready when they were last heard of are listed again: the
//!   last good set. It is the answerer that has lost its way then, most likely; and if they are
//!   really gone, a wrong address costs a client no more than none. A relay that has said that it
//!   drains is not among them: it refuses newcomers, and being refused is dearer to clients than
//!   finding nobody, as go's shun a relay for an hour after that. So if all relays drain, the set
//!   is empty.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::{
    dnsaddr::{Member, tell_apart},
    report::Report,
};
use crate::config::MAX_FLEET;

/// Rounds in a row that a relay may miss before it counts as silent.
const FORGIVEN: u32 = 1;
/// Rounds in a row after which a silent relay is forgotten, while others are ready: about a minute.
/// Those that fell silent together with the last one have been silent for less.
const REMEMBERED: u32 = 120;

/// What is known of the relays.
#[derive(Debug, Default)]
pub struct Directory {
    relays: BTreeMap<PeerId, Heard>,
}

#[derive(Debug)]
struct Heard {
    last: Report,
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
    pub standing: Standing,
}

/// Whether a list is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
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
pub struct Census {
    /// They serve everybody.
    pub ready: usize,
    /// They answer, but are not ready.
    pub unready: usize,
    /// They do not answer.
    pub silent: usize,
}

impl Heard {
    fn is_silent(&self) -> bool {
        self.missed > FORGIVEN
    }

    fn is_ready(&self) -> bool {
        self.last.is_ready && !self.is_silent()
    }
}

impl Directory {
    /// Takes the answers of one round. Of two with one peer id, one that is ready counts: a name
    /// may lead to a relay by several addresses, or to its successor.
    pub fn round(&mut self, reports: impl IntoIterator<Item = Report>) {
        for heard in self.relays.values_mut() {
            heard.missed = heard.missed.saturating_add(1);
        }
        for report in reports {
            let id = *report.member.peer_id();
            let is_second = self.relays.get(&id).is_some_and(|heard| heard.missed == 0);
            if report.is_ready || !is_second {
                let heard = Heard {
                    last: report,
                    missed: 0,
                };
                self.relays.insert(id, heard);
            }
        }
        if self.relays.values().any(Heard::is_ready) {
            self.relays.retain(|_, heard| heard.missed < REMEMBERED);
        }
        while self.relays.len() > MAX_FLEET {
            let oldest = self.relays.iter().max_by_key(|(_, heard)| heard.missed);
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                break;
            };
            self.relays.remove(&oldest);
        }
    }

    /// The relays that belong into the zone now.
    pub fn listing(&self) -> Listing {
        let members = |is_wanted: fn(&Heard) -> bool| -> Vec<Member> {
            let wanted = self.relays.values().filter(|heard| is_wanted(heard));
            wanted.map(|heard| heard.last.member.clone()).collect()
        };
        let mut listed = members(Heard::is_ready);
        let mut standing = Standing::Current;
        if listed.is_empty() {
            listed = members(|heard| heard.last.is_ready);
            if !listed.is_empty() {
                standing = Standing::Stale;
            } else if self.relays.is_empty() {
                standing = Standing::Unknown;
            }
        }
        let unlisted = members(|heard| !heard.last.is_ready && !heard.is_silent());
        let first_unlisted = listed.len();
        let mut all = listed;
        all.extend(unlisted);
        tell_apart(&mut all);
        let unlisted = all.split_off(first_unlisted);
        Listing {
            listed: all,
            unlisted,
            standing,
        }
    }

    /// How many relays there are of each kind.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for heard in self.relays.values() {
            let count = if heard.is_silent() {
                &mut census.silent
            } else if heard.last.is_ready {
                &mut census.ready
            } else {
                &mut census.unready
            };
            *count += 1;
        }
        census
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

    fn report(id: PeerId, is_ready: bool) -> Report {
        let address = "/ip4/192.0.2.1/tcp/9000".parse().unwrap();
        Report {
            member: Member::new(None, id, vec![address]),
            is_ready,
        }
    }

    /// One round, in which these are ready and those drain.
    fn round(directory: &mut Directory, ready: &[PeerId], draining: &[PeerId]) {
        let ready = ready.iter().map(|id| report(*id, true));
        let draining = draining.iter().map(|id| report(*id, false));
        directory.round(ready.chain(draining));
    }

    fn listed(directory: &Directory) -> (Vec<PeerId>, Standing) {
        let listing = directory.listing();
        let ids = listing.listed.iter().map(|member| *member.peer_id());
        (ids.collect(), listing.standing)
    }

    #[test]
    fn nothing_is_known_before_the_first_answer() {
        let mut directory = Directory::default();
        assert_eq!(directory.listing(), Listing::default());
        round(&mut directory, &[], &[]);
        assert_eq!(directory.listing().standing, Standing::Unknown);
    }

    #[test]
    fn a_draining_relay_is_dropped_at_once_and_keeps_its_name() {
        let [a, b] = ids();
        let mut directory = Directory::default();
        round(&mut directory, &[a, b], &[]);
        round(&mut directory, &[a], &[b]);
        assert_eq!(listed(&directory), (vec![a], Standing::Current));
        assert_eq!(directory.listing().unlisted, [report(b, false).member]);
        for _ in 0..2 {
            round(&mut directory, &[a], &[]);
        }
        assert_eq!(directory.listing().unlisted, []);
        round(&mut directory, &[a, b], &[]);
        assert_eq!(listed(&directory), (vec![a, b], Standing::Current));
    }

    #[test]
    fn a_silent_relay_is_forgiven_one_round() {
        let [a, b] = ids();
        let mut directory = Directory::default();
        round(&mut directory, &[a, b], &[]);
        round(&mut directory, &[a], &[]);
        assert_eq!(listed(&directory).0, [a, b]);
        round(&mut directory, &[a], &[]);
        assert_eq!(listed(&directory), (vec![a], Standing::Current));
        let expected = Census {
            ready: 1,
            unready: 0,
            silent: 1,
        };
        assert_eq!(directory.census(), expected);
    }

    #[test]
    fn the_last_good_set_stays_when_all_are_silent() {
        let [a, b, c] = ids();
        let mut directory = Directory::default();
        round(&mut directory, &[a, b, c], &[]);
        // They are lost one after the other, as timeouts have it.
        round(&mut directory, &[b, c], &[]);
        round(&mut directory, &[c], &[]);
        for _ in 0..1000 {
            round(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![a, b, c], Standing::Stale));
        // Whoever comes back ends it.
        round(&mut directory, &[b], &[]);
        assert_eq!(listed(&directory), (vec![b], Standing::Current));
        assert_eq!(directory.census().silent, 0, "they were silent for long");
    }

    #[test]
    fn who_was_gone_for_long_is_not_in_the_last_good_set() {
        let [a, b] = ids();
        let mut directory = Directory::default();
        round(&mut directory, &[a, b], &[]);
        for _ in 0..REMEMBERED {
            round(&mut directory, &[a], &[]);
        }
        for _ in 0..5 {
            round(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![a], Standing::Stale));
    }

    #[test]
    fn who_said_goodbye_is_not_in_the_last_good_set() {
        let [a, b] = ids();
        let mut directory = Directory::default();
        round(&mut directory, &[a, b], &[]);
        round(&mut directory, &[b], &[a]);
        for _ in 0..5 {
            round(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![b], Standing::Stale));

        let mut directory = Directory::default();
        round(&mut directory, &[a, b], &[]);
        round(&mut directory, &[], &[a, b]);
        assert_eq!(listed(&directory), (vec![], Standing::Current));
        for _ in 0..5 {
            round(&mut directory, &[], &[]);
        }
        assert_eq!(listed(&directory), (vec![], Standing::Current));
    }

    #[test]
    fn of_two_answers_the_ready_one_counts() {
        let [a] = ids();
        for is_first_ready in [true, false] {
            let mut directory = Directory::default();
            directory.round([report(a, is_first_ready), report(a, !is_first_ready)]);
            assert_eq!(listed(&directory), (vec![a], Standing::Current));
        }
    }

    /// A hostile relay that is another one each time.
    #[test]
    fn memory_is_bounded() {
        let mut directory = Directory::default();
        for _ in 0..2 * MAX_FLEET {
            round(&mut directory, &[PeerId::random()], &[]);
        }
        assert!(directory.relays.len() <= MAX_FLEET);
    }
}
