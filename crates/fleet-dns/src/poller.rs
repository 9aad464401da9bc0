//! Polls the relays' status and publishes the resulting zone.
//!
//! Every half second, all relays are polled at once. A draining relay is removed from the zone at the
//! poll that finds it draining, a silent one at the second poll that it misses. A poll takes less
//! time than the interval between two, so both happen well within two seconds.
//!
//! The first zone is published when every relay has responded, or after some polls: an earlier one
//! would deny the existence of relays that have not responded yet.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::{BoxFuture, join_all};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{
    directory::{Directory, Listing, RelayCounts, ZoneState},
    discovery::DiscoveredAddresses,
    observer::Observer,
    status::{FleetMembers, RelayStatus, StatusError},
    zone::{Zone, ZoneConfig},
};

/// Average interval between the starts of two polls.
const INTERVAL: Duration = Duration::from_millis(500);
/// Relative jitter of the interval, so that several DNS servers do not poll in step.
const JITTER: f64 = 0.1;
/// Deadline of a relay's response: less than the shortest interval.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);
/// Polls after which the first zone is published without a complete set of responses: about two
/// seconds.
const STARTUP_POLLS: u32 = 4;
/// Polls without any response since the start after which a warning is logged: about five seconds.
const WARN_AFTER_POLLS: u32 = 10;

/// Why a status could not be fetched.
pub type FetchError = Box<dyn std::error::Error + Send + Sync>;

/// Fetches the status of one relay.
pub trait StatusClient: std::fmt::Debug + Send + Sync + 'static {
    /// The body of the status of the relay whose admin API listens at `relay`. The poller stops
    /// waiting after 400 ms, and drops the future.
    ///
    /// # Errors
    /// When the relay does not respond, or without success.
    fn fetch(&self, relay: SocketAddr) -> BoxFuture<'static, Result<Vec<u8>, FetchError>>;
}

/// Polls the status of a fleet's relays.
#[derive(Debug)]
pub struct StatusPoller {
    origin: ZoneConfig,
    members: Option<FleetMembers>,
    observer: Arc<dyn Observer>,
    client: Arc<dyn StatusClient>,
    directory: Directory,
    zone: watch::Sender<Arc<Zone>>,
    published: Listing,
    counts: RelayCounts,
    unknown_relays: usize,
    polls: u32,
    /// Whether the state of the relays is known.
    is_initialized: bool,
    serial: u32,
}

impl StatusPoller {
    /// A poller that publishes the zone of `origin`. With `members`, other relays are ignored.
    pub fn new(
        origin: ZoneConfig,
        members: Option<FleetMembers>,
        client: Arc<dyn StatusClient>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let published = Listing::default();
        let zone = Arc::new(Zone::new(&origin, &published, 0));
        Self {
            origin,
            members,
            observer,
            client,
            directory: Directory::default(),
            zone: watch::Sender::new(zone),
            published,
            counts: RelayCounts::default(),
            unknown_relays: 0,
            polls: 0,
            is_initialized: false,
            serial: 0,
        }
    }

    /// The current zone.
    pub fn zone(&self) -> watch::Receiver<Arc<Zone>> {
        self.zone.subscribe()
    }

    /// Polls the relays at the current `addresses`. Never returns.
    pub async fn run(mut self, addresses: watch::Receiver<DiscoveredAddresses>) {
        loop {
            let next =
                Instant::now() + INTERVAL.mul_f64(rand::random_range(1.0 - JITTER..1.0 + JITTER));
            let DiscoveredAddresses {
                addresses: relays,
                is_complete,
            } = addresses.borrow().clone();
            // There are at most MAX_RELAYS addresses, and the length of a response is bounded.
            let bodies = join_all(relays.into_iter().map(|relay| self.poll_status(relay))).await;
            self.polls = self.polls.saturating_add(1);
            let is_whole = is_complete && bodies.iter().all(Option::is_some);
            self.is_initialized |= is_whole || self.polls >= STARTUP_POLLS;
            self.apply(bodies.iter().flatten().map(Vec::as_slice));
            sleep_until(next).await;
        }
    }

    /// Applies the responses of one poll.
    fn apply<'a>(&mut self, bodies: impl Iterator<Item = &'a [u8]>) {
        let mut unknown_relays = 0;
        let mut statuses = Vec::new();
        for body in bodies {
            match RelayStatus::parse(body, self.members.as_ref()) {
                Ok(status) => statuses.push(status),
                Err(error) => {
                    unknown_relays += usize::from(error == StatusError::NotAMember);
                    debug!(%error, "invalid status of a relay");
                }
            }
        }
        self.directory.update(statuses);
        let listing = if self.is_initialized {
            self.directory.listing()
        } else {
            Listing::default()
        };
        let counts = self.directory.counts();
        self.observer.polled(counts, listing.state);
        let before = self.published.state;
        let is_new = listing != self.published;
        if is_new {
            self.serial = serial_after(self.serial);
            let zone = Zone::new(&self.origin, &listing, self.serial);
            self.zone.send_replace(Arc::new(zone));
            self.published = listing;
        }
        if self.polls == WARN_AFTER_POLLS && self.published.state == ZoneState::Unknown {
            warn!("no relay has responded yet: all queries are answered with SERVFAIL");
        }
        // The zone is published before the log line.
        if is_new || counts != self.counts {
            self.log_changes(before, counts);
            self.counts = counts;
        }
        if unknown_relays > self.unknown_relays {
            warn!(
                relays = unknown_relays,
                "ignoring relays whose peer ids do not follow from RELAY_IDENTITY_SEED and \
                 RELAY_FLEET_INSTANCES"
            );
        }
        self.unknown_relays = unknown_relays;
    }

    /// The body of the status of `relay`, if it responds in time.
    async fn poll_status(&self, relay: SocketAddr) -> Option<Vec<u8>> {
        match timeout(ANSWER_TIMEOUT, self.client.fetch(relay)).await {
            Ok(Ok(body)) => return Some(body),
            Ok(Err(error)) => debug!(%relay, %error, "status request failed"),
            Err(_) => debug!(%relay, "status request timed out"),
        }
        None
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
                unready,
                silent,
                "the zone is stale: no relay is ready, publishing the last good set"
            ),
            (ZoneState::Stale, ZoneState::Current) => {
                info!(listed, ready, unready, silent, "the zone is current again");
            }
            (_, ZoneState::Current) => info!(listed, ready, unready, silent, "relays changed"),
            (_, ZoneState::Stale | ZoneState::Unknown) => {}
        }
    }
}

/// The serial number of the zone after `last`: the current time, so that it also grows over restarts.
fn serial_after(last: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    // Serial numbers wrap.
    #[expect(clippy::cast_possible_truncation, reason = "serial numbers wrap")]
    let now = now as u32;
    now.max(last.wrapping_add(1))
}
