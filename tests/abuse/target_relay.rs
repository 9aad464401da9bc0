//! The relay under attack, with the memory and files that it used before.

use test_support::{
    PATIENCE, ordinary_clients,
    process::{Relay, is},
};
use tokio::time::timeout;

const MIB: usize = 1024 * 1024;
/// By how much memory may grow while a case goes on.
const GROWN: usize = 96 * MIB;
/// How much of that may be kept: tables that have grown, and pages that are not quite empty.
const KEPT: usize = 16 * MIB;

/// A relay under attack.
pub(crate) struct TargetRelay {
    pub(crate) relay: Relay,
    resident: usize,
    files: usize,
}

impl TargetRelay {
    /// A relay with these variables, which has served somebody before: what is set up once is no
    /// growth.
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        let statistics = [("RELAY_STATS_INTERVAL", "1s")];
        let mut relay = Relay::start(&[&statistics, variables].concat()).await;
        ordinary_clients::assert_served(&relay.tcp()).await;
        ordinary_clients::assert_served(&relay.quic()).await;
        relay.is_idle().await;
        Self {
            resident: relay.used_bytes(),
            files: relay.open_files(),
            relay,
        }
    }

    /// Others are served, over TCP and QUIC, and memory is within its bound.
    pub(crate) async fn assert_serves(&self) {
        ordinary_clients::assert_served(&self.relay.tcp()).await;
        ordinary_clients::assert_served(&self.relay.quic()).await;
        self.assert_growth_at_most(GROWN);
    }

    /// Memory has not grown by more than this.
    pub(crate) fn assert_growth_at_most(&self, bytes: usize) {
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
    pub(crate) async fn assert_recovers(mut self) {
        self.assert_serves().await;
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
