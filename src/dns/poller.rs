//! Asks the relays how they are, and puts up the zone that follows from it.
//!
//! A round every half second asks all relays at once. One that drains is out of the zone with the
//! round that hears of it; one that falls silent with the second round that misses it. Each round
//! takes less time than lies between two, so both come well within two seconds.
//!
//! The first zone is put up when every relay has answered, or after some rounds without one: who
//! asked sooner for a relay yet to be heard of would be told that there is none.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::join_all;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{
    directory::{Directory, Listing, RelayCounts, ZoneState},
    discovery::DiscoveredAddresses,
    metrics::DnsMetrics,
    status::{FleetMembers, RelayStatus, StatusError},
    zone::{Zone, ZoneConfig},
};
use crate::admin::client;

/// Between the beginnings of two rounds, on average.
const INTERVAL: Duration = Duration::from_millis(500);
/// How much shorter or longer it may be, so that several answerers do not ask in step.
const JITTER: f64 = 0.1;
/// How long a relay may take to answer: less than the shortest interval.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);
/// Rounds after which the first zone waits for no relay any longer: about two seconds.
const STARTUP_POLLS: u32 = 4;
/// Rounds without any answer from the start on, after which the log says so: about five seconds.
const WARN_AFTER_POLLS: u32 = 10;

/// Follows the relays of a fleet.
#[derive(Debug)]
pub struct StatusPoller {
    origin: ZoneConfig,
    members: Option<FleetMembers>,
    metrics: DnsMetrics,
    directory: Directory,
    zone: watch::Sender<Arc<Zone>>,
    published: Listing,
    counts: RelayCounts,
    unknown_relays: usize,
    rounds: u32,
    /// Whether the relays have been heard of that are there.
    is_initialized: bool,
    serial: u32,
}

impl StatusPoller {
    /// Follows relays into the zone of `origin`. With `known`, nobody else gets into it.
    pub fn new(origin: ZoneConfig, known: Option<FleetMembers>, metrics: DnsMetrics) -> Self {
        let published = Listing::default();
        let zone = Arc::new(Zone::new(&origin, &published, 0));
        Self {
            origin,
            known,
            metrics,
            directory: Directory::default(),
            zone: watch::Sender::new(zone),
            published,
            counts: RelayCounts::default(),
            unknown_relays: 0,
            rounds: 0,
            is_initialized: false,
            serial: 0,
        }
    }

    /// The zone as it is at any time.
    pub fn zone(&self) -> watch::Receiver<Arc<Zone>> {
        self.zone.subscribe()
    }

    /// Asks the relays at these addresses, whichever they are at the time, for ever.
    pub async fn run(mut self, addresses: watch::Receiver<DiscoveredAddresses>) {
        loop {
            let next =
                Instant::now() + INTERVAL.mul_f64(rand::random_range(1.0 - JITTER..1.0 + JITTER));
            let DiscoveredAddresses {
                addresses: known,
                is_complete,
            } = addresses.borrow().clone();
            // There are at most MAX_RELAYS of them, and a relay's answer is bounded, too.
            let bodies = join_all(known.into_iter().map(poll_status)).await;
            self.rounds = self.rounds.saturating_add(1);
            let is_whole = is_complete && bodies.iter().all(Option::is_some);
            self.is_initialized |= is_whole || self.rounds >= STARTUP_POLLS;
            self.apply(bodies.iter().flatten().map(Vec::as_slice));
            sleep_until(next).await;
        }
    }

    /// Takes the answers of one round.
    fn apply<'a>(&mut self, bodies: impl Iterator<Item = &'a [u8]>) {
        let mut unknown_relays = 0;
        let mut reports = Vec::new();
        for body in bodies {
            match RelayStatus::parse(body, self.members.as_ref()) {
                Ok(report) => reports.push(report),
                Err(error) => {
                    unknown_relays += usize::from(error == StatusError::NotAMember);
                    debug!(%error, "a relay's answer is of no use");
                }
            }
        }
        self.directory.update(reports);
        let listing = if self.is_initialized {
            self.directory.listing()
        } else {
            Listing::default()
        };
        let counts = self.directory.counts();
        self.metrics.fleet(counts, listing.state);
        let before = self.published.state;
        let is_new = listing != self.published;
        if is_new {
            self.serial = serial_after(self.serial);
            let zone = Zone::new(&self.origin, &listing, self.serial);
            self.zone.send_replace(Arc::new(zone));
            self.published = listing;
        }
        if self.rounds == WARN_AFTER_POLLS && self.published.state == ZoneState::Unknown {
            warn!("no relay has answered yet: every question gets SERVFAIL");
        }
        // What the log says holds already.
        if is_new || counts != self.counts {
            self.log_changes(before, counts);
            self.counts = counts;
        }
        if unknown_relays > self.unknown_relays {
            warn!(
                relays = unknown_relays,
                "relays are left out: RELAY_IDENTITY_SEED and RELAY_FLEET_INSTANCES give none of \
                 their peer id"
            );
        }
        self.unknown_relays = unknown_relays;
    }

    /// Logs what has changed.
    fn log_changes(&self, before: ZoneState, counts: RelayCounts) {
        let RelayCounts {
            ready,
            unready,
            silent,
        } = counts;
        let listed = self.published.listed.len();
        match (before, self.published.state) {
            (ZoneState::Current | ZoneState::Unknown, ZoneState::Stale) => warn!(
                listed,
                unready, silent, "the zone is stale: no relay is ready, the last good set stays"
            ),
            (ZoneState::Stale, ZoneState::Current) => {
                info!(listed, ready, unready, silent, "the zone is current again");
            }
            (_, ZoneState::Current) => info!(listed, ready, unready, silent, "relays changed"),
            (_, ZoneState::Stale | ZoneState::Unknown) => {}
        }
    }
}

/// The body of the relay's `/status`, if there is one in time.
async fn poll_status(address: SocketAddr) -> Option<Vec<u8>> {
    match timeout(ANSWER_TIMEOUT, client::get(address, "/status")).await {
        Ok(Ok((status, body))) if status.is_success() => return Some(body.to_vec()),
        Ok(Ok((status, _))) => debug!(%address, %status, "a relay gives no status"),
        Ok(Err(error)) => debug!(%address, %error, "a relay does not answer"),
        Err(_) => debug!(%address, "a relay does not answer in time"),
    }
    None
}

/// The version of the zone that follows `last`: the time, so that it grows over restarts, too.
fn serial_after(last: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    // Serial numbers wrap.
    #[expect(clippy::cast_possible_truncation, reason = "serial numbers wrap")]
    let now = now as u32;
    now.max(last.wrapping_add(1))
}
