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
    directory::{Census, Directory, Listing, Standing},
    metrics::DnsMetrics,
    names::Addresses,
    report::{Known, Report, Unusable},
    zone::{Origin, Zone},
};
use crate::admin::client;

/// Between the beginnings of two rounds, on average.
const INTERVAL: Duration = Duration::from_millis(500);
/// How much shorter or longer it may be, so that several answerers do not ask in step.
const JITTER: f64 = 0.1;
/// How long a relay may take to answer: less than the shortest interval.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);
/// Rounds after which the first zone waits for no relay any longer: about two seconds.
const WAITED_FOR: u32 = 4;
/// Rounds without any answer from the start on, after which the log says so: about five seconds.
const PATIENCE: u32 = 10;

/// Follows the relays of a fleet.
#[derive(Debug)]
pub struct Watch {
    origin: Origin,
    known: Option<Known>,
    metrics: DnsMetrics,
    directory: Directory,
    zone: watch::Sender<Arc<Zone>>,
    shown: Listing,
    counted: Census,
    strangers: usize,
    rounds: u32,
    /// Whether the relays have been heard of that are there.
    is_up: bool,
    serial: u32,
}

impl Watch {
    /// Follows relays into the zone of `origin`. With `known`, nobody else gets into it.
    pub fn new(origin: Origin, known: Option<Known>, metrics: DnsMetrics) -> Self {
        let shown = Listing::default();
        let zone = Arc::new(Zone::new(&origin, &shown, 0));
        Self {
            origin,
            known,
            metrics,
            directory: Directory::default(),
            zone: watch::Sender::new(zone),
            shown,
            counted: Census::default(),
            strangers: 0,
            rounds: 0,
            is_up: false,
            serial: 0,
        }
    }

    /// The zone as it is at any time.
    pub fn zone(&self) -> watch::Receiver<Arc<Zone>> {
        self.zone.subscribe()
    }

    /// Asks the relays at these addresses, whichever they are at the time, for ever.
    pub async fn run(mut self, addresses: watch::Receiver<Addresses>) {
        loop {
            let next =
                Instant::now() + INTERVAL.mul_f64(rand::random_range(1.0 - JITTER..1.0 + JITTER));
            let Addresses { known, is_complete } = addresses.borrow().clone();
            // There are at most MAX_FLEET of them, and a relay's answer is bounded, too.
            let bodies = join_all(known.into_iter().map(ask)).await;
            self.rounds = self.rounds.saturating_add(1);
            let is_whole = is_complete && bodies.iter().all(Option::is_some);
            self.is_up |= is_whole || self.rounds >= WAITED_FOR;
            self.take(bodies.iter().flatten().map(Vec::as_slice));
            sleep_until(next).await;
        }
    }

    /// Takes the answers of one round.
    fn take<'a>(&mut self, bodies: impl Iterator<Item = &'a [u8]>) {
        let mut strangers = 0;
        let mut reports = Vec::new();
        for body in bodies {
            match Report::parse(body, self.known.as_ref()) {
                Ok(report) => reports.push(report),
                Err(unusable) => {
                    strangers += usize::from(unusable == Unusable::Stranger);
                    debug!(%unusable, "a relay's answer is of no use");
                }
            }
        }
        self.directory.round(reports);
        let listing = if self.is_up {
            self.directory.listing()
        } else {
            Listing::default()
        };
        let census = self.directory.census();
        self.metrics.fleet(census, listing.standing);
        let before = self.shown.standing;
        let is_new = listing != self.shown;
        if is_new {
            self.serial = serial_after(self.serial);
            let zone = Zone::new(&self.origin, &listing, self.serial);
            self.zone.send_replace(Arc::new(zone));
            self.shown = listing;
        }
        if self.rounds == PATIENCE && self.shown.standing == Standing::Unknown {
            warn!("no relay has answered yet: every question gets SERVFAIL");
        }
        // What the log says holds already.
        if is_new || census != self.counted {
            self.tell(before, census);
            self.counted = census;
        }
        if strangers > self.strangers {
            warn!(
                relays = strangers,
                "relays are left out: RELAY_IDENTITY_SEED and RELAY_FLEET_INSTANCES give none of \
                 their peer id"
            );
        }
        self.strangers = strangers;
    }

    /// Logs what has changed.
    fn tell(&self, before: Standing, census: Census) {
        let Census {
            ready,
            unready,
            silent,
        } = census;
        let listed = self.shown.listed.len();
        match (before, self.shown.standing) {
            (Standing::Current | Standing::Unknown, Standing::Stale) => warn!(
                listed,
                unready, silent, "the zone is stale: no relay is ready, the last good set stays"
            ),
            (Standing::Stale, Standing::Current) => {
                info!(listed, ready, unready, silent, "the zone is current again");
            }
            (_, Standing::Current) => info!(listed, ready, unready, silent, "relays changed"),
            (_, Standing::Stale | Standing::Unknown) => {}
        }
    }
}

/// The body of the relay's `/status`, if there is one in time.
async fn ask(address: SocketAddr) -> Option<Vec<u8>> {
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
