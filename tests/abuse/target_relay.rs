//! The relay under attack, and its memory and file usage before the attack.

use test_support::{
    PATIENCE, ordinary_clients,
    process::{Relay, is},
};
use tokio::time::timeout;

const MIB: usize = 1024 * 1024;
/// Bound of memory growth during an attack, in bytes.
const MAX_GROWTH: usize = 96 * MIB;
/// Bound of memory growth after an attack, in bytes: hash maps that have grown, and fragmented pages.
const MAX_RETAINED: usize = 16 * MIB;

/// A relay under attack.
pub(crate) struct TargetRelay {
    pub(crate) relay: Relay,
    resident: usize,
    files: usize,
}

impl TargetRelay {
    /// Starts a relay with these variables and serves ordinary clients once, so that one-time allocations
    /// do not count as growth.
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        let statistics = [("RELAY_STATS_INTERVAL", "1s")];
        let mut relay = Relay::start(&[&statistics, variables].concat()).await;
        ordinary_clients::assert_served(&relay.tcp()).await;
        ordinary_clients::assert_served(&relay.quic()).await;
        relay.wait_until_idle().await;
        Self {
            resident: relay.used_bytes(),
            files: relay.open_files(),
            relay,
        }
    }

    /// Asserts that ordinary clients are served over TCP and QUIC, and that memory is within its bound.
    pub(crate) async fn assert_serves(&self) {
        ordinary_clients::assert_served(&self.relay.tcp()).await;
        ordinary_clients::assert_served(&self.relay.quic()).await;
        self.assert_growth_at_most(MAX_GROWTH);
    }

    /// Asserts that memory has grown by at most this many bytes.
    pub(crate) fn assert_growth_at_most(&self, bytes: usize) {
        let grown = self.grown();
        assert!(grown <= bytes, "grown by {grown} bytes");
    }

    /// The number of files opened since the start.
    pub(crate) fn files(&self) -> usize {
        self.relay.open_files().saturating_sub(self.files)
    }

    fn grown(&self) -> usize {
        self.relay.used_bytes().saturating_sub(self.resident)
    }

    /// Asserts that ordinary clients are served as soon as the attackers have disconnected, and that
    /// memory and files are released.
    pub(crate) async fn assert_recovers(mut self) {
        self.assert_serves().await;
        self.relay.wait_until_idle().await;
        let recovered = timeout(PATIENCE, async {
            while self.grown() > MAX_RETAINED || self.files() > 0 {
                self.relay.event("statistics").await;
            }
        });
        let recovered = recovered.await;
        let (grown, files) = (self.grown(), self.files());
        assert!(
            recovered.is_ok(),
            "{grown} bytes and {files} files are not released"
        );
        println!("{} KiB of memory not released", grown / 1024);
        let events = self.relay.stop().await;
        assert!(events.iter().all(|event| !is(event, "a task panicked")));
    }
}
