//! What the answerer counts.
//!
//! An attribute takes few values, whatever clients do: never a name that was asked for, nor an
//! address.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

use super::{
    answer::Transport,
    directory::{Census, Standing},
};
use crate::metrics::catalogue::{DNS_QUERIES, DNS_RELAYS, DNS_STALE};

/// The instruments of the answerer. Clones share everything.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    queries: Counter<u64>,
    fleet: Arc<Mutex<(Census, Standing)>>,
}

impl DnsMetrics {
    /// The instruments of `meter`. To be called once.
    pub fn new(meter: &Meter) -> Self {
        let fleet = Arc::<Mutex<(Census, Standing)>>::default();
        let now = |fleet: &Mutex<_>| *fleet.lock().unwrap_or_else(PoisonError::into_inner);
        let relays = Arc::clone(&fleet);
        DNS_RELAYS.observe(meter, move |observer| {
            let (census, _): (Census, Standing) = now(&relays);
            for (state, count) in [
                ("ready", census.ready),
                ("unready", census.unready),
                ("silent", census.silent),
            ] {
                observer.observe(count as u64, &[KeyValue::new("state", state)]);
            }
        });
        let standing = Arc::clone(&fleet);
        DNS_STALE.observe(meter, move |observer| {
            let (_, standing): (Census, Standing) = now(&standing);
            observer.observe(u64::from(standing == Standing::Stale), &[]);
        });
        Self {
            queries: DNS_QUERIES.counter(meter),
            fleet,
        }
    }

    /// A query came to one of the outcomes of [`Answer`](super::answer::Answer), or was "ignored"
    /// (no query at all) or "limited".
    pub(super) fn query(&self, transport: Transport, outcome: &'static str) {
        let transport = match transport {
            Transport::Udp | Transport::UdpTruncated => "udp",
            Transport::Tcp => "tcp",
        };
        let attributes = [
            KeyValue::new("transport", transport),
            KeyValue::new("outcome", outcome),
        ];
        self.queries.add(1, &attributes);
    }

    /// The relays are such now.
    pub(super) fn fleet(&self, census: Census, standing: Standing) {
        *self.fleet.lock().unwrap_or_else(PoisonError::into_inner) = (census, standing);
    }
}
