//! The relay that is abused, and what it held before.

use tokio::time::timeout;

use crate::support::{
    PATIENCE, bystander,
    process::{Relay, is},
};

const MIB: usize = 1024 * 1024;
/// By how much memory may grow while a case goes on.
const GROWN: usize = 96 * MIB;
/// How much of that may be kept: tables that have grown, and pages that are not quite empty.
const KEPT: usize = 16 * MIB;

/// A relay under abuse.
pub(crate) struct Victim {
    pub(crate) relay: Relay,
    resident: usize,
    files: usize,
}

impl Victim {
    /// A relay with these variables, which has served somebody before: what is set up once is no
    /// growth.
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        let statistics = [("RELAY_STATS_INTERVAL", "1s")];
        let mut relay = Relay::start(&[&statistics, variables].concat()).await;
        bystander::is_served(&relay.tcp()).await;
        bystander::is_served(&relay.quic()).await;
        relay.is_idle().await;
        Self {
            resident: relay.used_bytes(),
            files: relay.open_files(),
            relay,
        }
    }

    /// Others are served, over TCP and QUIC, and memory is within its bound.
    pub(crate) async fn stands(&self) {
        bystander::is_served(&self.relay.tcp()).await;
        bystander::is_served(&self.relay.quic()).await;
        self.holds_at_most(GROWN);
    }

    /// Memory has not grown by more than this.
    pub(crate) fn holds_at_most(&self, bytes: usize) {
        let grown = self.grown();
        assert!(grown <= bytes, "grown by {grown} bytes");
    }

    /// How many files are open that were not before.
    pub(crate) fn files(&self) -> usize {
        self.relay.open_files().saturating_sub(self.files)
    }

    fn grown(&self) -> usize {
        self.relay.used_bytes().saturating_sub(self.resident)
    }

    /// Once the offenders have left, the next ones are served at once, and soon there is nothing
    /// left of anybody.
    pub(crate) async fn recovers(mut self) {
        self.stands().await;
        self.relay.is_idle().await;
        let recovered = timeout(PATIENCE, async {
            while self.grown() > KEPT || self.files() > 0 {
                self.relay.event("statistics").await;
            }
        });
        let recovered = recovered.await;
        let (grown, files) = (self.grown(), self.files());
        assert!(
            recovered.is_ok(),
            "{grown} bytes and {files} files are kept"
        );
        println!("{} KiB of memory kept", grown / 1024);
        let events = self.relay.stop().await;
        assert!(events.iter().all(|event| !is(event, "a task panicked")));
    }
}
