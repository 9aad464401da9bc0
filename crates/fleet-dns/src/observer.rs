//! What the DNS server and the poller report to their program.

use std::{fmt::Debug, sync::Arc};

use super::{
    directory::{RelayCounts, ZoneState},
    response::DnsTransport,
};

/// Receives reports, for example to count them. The default is to ignore a report.
pub trait Observer: Debug + Send + Sync + 'static {
    /// A query was handled. `outcome` is one of [`Response`](super::response::Response), or "ignored"
    /// (not a query) or "limited".
    fn query(&self, transport: DnsTransport, outcome: &'static str) {
        let _ = (transport, outcome);
    }

    /// The relays were polled.
    fn polled(&self, counts: RelayCounts, state: ZoneState) {
        let _ = (counts, state);
    }
}

/// Ignores all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

impl NoObserver {
    /// As a shared trait object.
    pub fn shared() -> Arc<dyn Observer> {
        Arc::new(Self)
    }
}
