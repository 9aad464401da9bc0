//! The DNS server's instruments.
//!
//! Attributes take few values and never depend on clients: no queried name and no address is one.

use std::sync::{Arc, Mutex, PoisonError};

use fleet_dns::{
    directory::{RelayCounts, ZoneState},
    observer::Observer,
    response::DnsTransport,
};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

use crate::metrics::catalogue::{DNS_QUERIES, DNS_RELAYS, DNS_STALE};

/// The DNS server's instruments. Clones share the same state.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    queries: Counter<u64>,
    fleet: Arc<Mutex<(RelayCounts, ZoneState)>>,
}

impl DnsMetrics {
    /// Creates the instruments with `meter`. Must be called only once.
    pub fn new(meter: &Meter) -> Self {
        let fleet = Arc::<Mutex<(RelayCounts, ZoneState)>>::default();
        let now = |fleet: &Mutex<_>| *fleet.lock().unwrap_or_else(PoisonError::into_inner);
        let relays = Arc::clone(&fleet);
        DNS_RELAYS.observe(meter, move |observer| {
            let (counts, _): (RelayCounts, ZoneState) = now(&relays);
            for (state, count) in [
                ("ready", counts.ready),
                ("unready", counts.unready),
                ("silent", counts.silent),
            ] {
                observer.observe(count as u64, &[KeyValue::new("state", state)]);
            }
        });
        let state = Arc::clone(&fleet);
        DNS_STALE.observe(meter, move |observer| {
            let (_, state): (RelayCounts, ZoneState) = now(&state);
            observer.observe(u64::from(state == ZoneState::Stale), &[]);
        });
        Self {
            queries: DNS_QUERIES.counter(meter),
            fleet,
        }
    }
}

impl Observer for DnsMetrics {
    fn query(&self, transport: DnsTransport, outcome: &'static str) {
        let transport = match transport {
            DnsTransport::Udp | DnsTransport::UdpTruncated => "udp",
            DnsTransport::Tcp => "tcp",
        };
        let attributes = [
            KeyValue::new("transport", transport),
            KeyValue::new("outcome", outcome),
        ];
        self.queries.add(1, &attributes);
    }

    fn polled(&self, counts: RelayCounts, state: ZoneState) {
        *self.fleet.lock().unwrap_or_else(PoisonError::into_inner) = (counts, state);
    }
}
