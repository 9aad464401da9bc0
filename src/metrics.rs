//! The relay's instruments, exported over OTLP and at `/metrics`.
//!
//! Both exports read the same instruments. Events are recorded in [`Metrics`] at the place where they
//! happen; state is read by callbacks at collection time, see [`observe`].

mod access;
pub(crate) mod catalogue;
mod dialback;
mod process;
mod refusals;
mod state;
mod transports;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, MeterProvider, UpDownCounter, noop::NoopMeterProvider},
};

use self::catalogue::{
    ACCESS_DECISION_DURATION, ACCESS_LOOKUPS, ACCESS_RELOADS, AUTONAT_DIALS, CIRCUIT_DURATION,
    CONNECTIONS, CONNECTIONS_DENIED, EXPORTS, HANDSHAKE_DURATION, HOP_REQUESTS, LOST,
    QUIC_OFFLOAD_FALLBACKS, RESERVATION_DURATION, STOP_DURATION,
};
pub(crate) use self::process::observe as observe_process;
pub(crate) use self::refusals::Refusals;
pub use self::{
    catalogue::{Attribute, DNS_INSTRUMENTS, INSTRUMENTS, Instrument, InstrumentKind},
    state::observe,
};

/// The instruments that record events. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    requests: Counter<u64>,
    reservation_duration: Histogram<f64>,
    circuit_duration: Histogram<f64>,
    stop_duration: Histogram<f64>,
    access_decision_duration: Histogram<f64>,
    access_lookups: Counter<u64>,
    access_reloads: Counter<u64>,
    access_rules: AtomicU64,
    access_stale: AtomicBool,
    handshake_duration: Histogram<f64>,
    connections: UpDownCounter<i64>,
    denied: Counter<u64>,
    refusals: Refusals,
    offload_fallbacks: Counter<u64>,
    autonat_dials: Counter<u64>,
    exports: Counter<u64>,
    lost: Counter<u64>,
    /// Connections that are established, of all transports.
    established: AtomicI64,
    /// Pending connections, which only the swarm knows; set periodically.
    pending: AtomicU64,
}

impl Metrics {
    /// Creates the instruments with `meter`.
    pub fn new(meter: &Meter) -> Self {
        let metrics = Self(Arc::new(Instruments {
            requests: HOP_REQUESTS.counter(meter),
            reservation_duration: RESERVATION_DURATION.histogram(meter),
            circuit_duration: CIRCUIT_DURATION.histogram(meter),
            stop_duration: STOP_DURATION.histogram(meter),
            access_decision_duration: ACCESS_DECISION_DURATION.histogram(meter),
            access_lookups: ACCESS_LOOKUPS.counter(meter),
            access_reloads: ACCESS_RELOADS.counter(meter),
            access_rules: AtomicU64::new(0),
            access_stale: AtomicBool::new(false),
            handshake_duration: HANDSHAKE_DURATION.histogram(meter),
            connections: CONNECTIONS.up_down_counter(meter),
            denied: CONNECTIONS_DENIED.counter(meter),
            refusals: Refusals::default(),
            offload_fallbacks: QUIC_OFFLOAD_FALLBACKS.counter(meter),
            autonat_dials: AUTONAT_DIALS.counter(meter),
            exports: EXPORTS.counter(meter),
            lost: LOST.counter(meter),
            established: AtomicI64::new(0),
            pending: AtomicU64::new(0),
        }));
        metrics.init_zero_series();
        metrics
    }

    /// Creates the series of rare events with the value zero. Without an earlier value, the increase by
    /// the first event would not be visible.
    fn init_zero_series(&self) {
        let begin = |counter: &Counter<u64>, instrument: &Instrument| {
            let [attribute] = instrument.attributes else {
                return;
            };
            for &value in attribute.values {
                counter.add(0, &[KeyValue::new(attribute.key, value)]);
            }
        };
        begin(&self.0.access_reloads, &ACCESS_RELOADS);
        begin(&self.0.denied, &CONNECTIONS_DENIED);
        begin(&self.0.lost, &LOST);
        self.0.offload_fallbacks.add(0, &[]);
    }

    /// Instruments without a reader.
    pub fn noop() -> Self {
        Self::new(&NoopMeterProvider::new().meter("noop"))
    }

    /// Counts a request. `request` is "reserve", "connect" or "unknown", `outcome` is "accepted",
    /// "renewed" or "denied", `reason` is why it was denied, or "none".
    pub(crate) fn request(
        &self,
        request: &'static str,
        outcome: &'static str,
        reason: &'static str,
    ) {
        let attributes = [
            KeyValue::new("request", request),
            KeyValue::new("outcome", outcome),
            KeyValue::new("reason", reason),
        ];
        self.0.requests.add(1, &attributes);
        if outcome == "denied" {
            self.0.refusals.requests.add(reason);
        }
    }

    /// Records the end of a reservation after `lasted`. `reason` is "expired" or "closed".
    pub(crate) fn reservation_ended(&self, reason: &'static str, lasted: Duration) {
        let reason = [KeyValue::new("reason", reason)];
        self.0
            .reservation_duration
            .record(lasted.as_secs_f64(), &reason);
    }

    /// Records the end of a circuit after `lasted`, with one of the reasons of
    /// [`EndReason`](circuit_relay::circuit::EndReason).
    pub(crate) fn circuit_ended(&self, reason: &'static str, lasted: Duration) {
        let reason = [KeyValue::new("reason", reason)];
        self.0
            .circuit_duration
            .record(lasted.as_secs_f64(), &reason);
    }

    /// Records an attempt to open a circuit on a connection of its target. `outcome` is "accepted",
    /// "refused", "failed", or "abandoned" if another attempt was faster or the source gave up.
    pub(crate) fn stop(&self, outcome: &'static str, took: Duration) {
        let outcome = [KeyValue::new("outcome", outcome)];
        self.0.stop_duration.record(took.as_secs_f64(), &outcome);
    }

    /// The refused connections and requests, for the admin API.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// Sets the number of pending incoming connections.
    pub(crate) fn connections_pending(&self, number: u32) {
        self.0.pending.store(number.into(), Ordering::Relaxed);
    }

    /// Counts an export of a batch of `signal` ("traces", "metrics").
    pub(crate) fn exported(&self, signal: &'static str, success: bool) {
        let outcome = if success { "success" } else { "failure" };
        let attributes = [
            KeyValue::new("signal", signal),
            KeyValue::new("outcome", outcome),
        ];
        self.0.exports.add(1, &attributes);
    }

    /// Counts items of `signal` ("traces", "logs") that were lost because the queue was full.
    pub(crate) fn lost(&self, signal: &'static str, items: u64) {
        // Adding zero would create a series.
        if items > 0 {
            self.0.lost.add(items, &[KeyValue::new("signal", signal)]);
        }
    }

    /// Number of established connections.
    pub(crate) fn established(&self) -> u64 {
        let established = self.0.established.load(Ordering::Relaxed);
        u64::try_from(established).unwrap_or_default()
    }

    /// Number of pending incoming connections.
    pub(crate) fn pending(&self) -> u64 {
        self.0.pending.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::INSTRUMENTS;

    #[test]
    fn instrument_names_are_unique() {
        let mut names: Vec<_> = INSTRUMENTS.iter().map(|i| i.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), INSTRUMENTS.len());
    }
}
