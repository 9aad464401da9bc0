//! Counters of acknowledged bytes. quinn reports acknowledgements to the congestion controller only,
//! so a wrapper of the controller counts them.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// The minimum number of bytes in an acknowledged packet that are not stream data: its header, its
/// authentication tag and the headers of its frames.
const PACKET_OVERHEAD: u64 = 40;

/// The counters of one path.
#[derive(Debug, Default)]
pub(super) struct AckCounters {
    bytes: AtomicU64,
    in_flight: AtomicU64,
}

impl AckCounters {
    /// The counters of the current path of `connection`.
    pub(super) fn of_path(connection: &quinn::Connection) -> Arc<Self> {
        let controller = connection.congestion_state().into_any();
        controller
            .downcast::<CountingController>()
            .map(|controller| controller.counters)
            .unwrap_or_default()
    }

    /// The approximate number of bytes of stream data in acknowledged packets.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The number of bytes in packets that are neither acknowledged nor lost.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// Creates [`CountingController`]s.
#[derive(Debug, Default)]
pub(super) struct CountingConfig(Arc<CubicConfig>);

impl ControllerFactory for CountingConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(CountingController {
            cubic: Arc::clone(&self.0).build(now, mtu),
            counters: Arc::default(),
        })
    }
}

/// CUBIC, quinn's default, with counters.
struct CountingController {
    cubic: Box<dyn Controller>,
    counters: Arc<AckCounters>,
}

impl Controller for CountingController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        let in_flight = &self.counters.in_flight;
        in_flight.fetch_add(bytes, Ordering::Relaxed);
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let data = bytes.saturating_sub(PACKET_OVERHEAD);
        self.counters.bytes.fetch_add(data, Ordering::Relaxed);
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.counters.in_flight.store(in_flight, Ordering::Relaxed);
        self.cubic
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.cubic
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            counters: Arc::clone(&self.counters),
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
