//! The catalogue of all instruments: names, units, attributes, descriptions.
//!
//! Names follow the semantic conventions of OpenTelemetry. In the Prometheus exposition they have
//! `_` for `.`, the unit at the end, and `_total` after a counter, except that the metrics of the
//! process have the names that Prometheus client libraries give them. The values of an attribute
//! are few and all listed here: never a peer id, an address, or anything else that a peer chooses.

use circuit_relay::{
    DenyReason, RequestKind, StopOutcome, bandwidth::BandwidthScope, circuit::EndReason,
    ledger::ReservationEnd,
};
use lifecycle::Phase;
use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Counter, Histogram, Meter, UpDownCounter},
};
use resource_manager::ConnectionDenyReason;
use resource_manager::Resource;

use crate::{
    access::{AuthorizationOutcome, CacheLookup},
    build_info,
    dialback::DialOutcome,
};

/// The definition of an instrument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instrument {
    /// The name in OpenTelemetry.
    pub name: &'static str,
    /// The kind of instrument.
    pub kind: InstrumentKind,
    /// The unit in [UCUM](https://ucum.org).
    pub unit: &'static str,
    /// The attributes of its data points.
    pub attributes: &'static [Attribute],
    /// The description, in one sentence.
    pub description: &'static str,
}

/// An attribute of an instrument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribute {
    /// The key.
    pub key: &'static str,
    /// All possible values.
    pub values: &'static [&'static str],
}

/// The kind of an instrument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InstrumentKind {
    /// A monotonic sum.
    Counter,
    /// A sum that can decrease; it can be added up over relays.
    UpDownCounter,
    /// A current value.
    Gauge,
    /// A histogram with these upper bounds of buckets.
    Histogram(&'static [f64]),
}

impl InstrumentKind {
    /// The name of the kind for documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::UpDownCounter => "up-down counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Up to more than the 8 s deadline of STOP and the 10 s deadline of a handshake.
const LATENCIES: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0,
];
/// From a handshake that fails at once to a circuit that lasts a day.
const LIFETIMES: &[f64] = &[
    0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0,
];

/// Metrics of the process that have another name in Prometheus client libraries: pairs of the name
/// derived from OpenTelemetry's semantic conventions, and the conventional one. They have no labels.
const CONVENTIONAL_NAMES: [(&str, &str); 6] = [
    (
        "process_cpu_time_seconds_total",
        "process_cpu_seconds_total",
    ),
    (
        "process_memory_usage_bytes",
        "process_resident_memory_bytes",
    ),
    (
        "process_memory_virtual_bytes",
        "process_virtual_memory_bytes",
    ),
    ("process_unix_file_descriptor_count", "process_open_fds"),
    ("relay_file_descriptor_limit", "process_max_fds"),
    ("process_thread_count", "process_threads"),
];

/// The conventional name of the metric that has the derived name `derived` in the exposition.
pub(crate) fn conventional_name(derived: &str) -> Option<&'static str> {
    let renamed = CONVENTIONAL_NAMES.iter().find(|(name, _)| *name == derived);
    renamed.map(|(_, conventional)| *conventional)
}

const TRANSPORTS: &[&str] = &["tcp", "quic", "websocket"];
const SECURITIES: &[&str] = &["tls", "noise"];
/// The outcomes of DNS queries.
const OUTCOMES: &[&str] = &[
    "answered",
    "nodata",
    "nxdomain",
    "truncated",
    "refused",
    "servfail",
    "formerr",
    "notimp",
    "badvers",
    "ignored",
    "limited",
];

/// `instruments! { LIST, "doc"; NAME = kind, "name", "unit", ["key": values, …], "description"; … }`:
/// defines a constant for each instrument, and a list of all of them.
macro_rules! instruments {
    ($list:ident, $doc:literal; $($constant:ident = $kind:expr, $name:literal, $unit:literal, [$($key:literal: $values:expr),*], $description:literal;)+) => {
        $(pub(crate) const $constant: Instrument = Instrument {
            name: $name,
            kind: $kind,
            unit: $unit,
            attributes: &[$(Attribute { key: $key, values: $values }),*],
            description: $description,
        };)+

        #[doc = $doc]
        pub const $list: &[Instrument] = &[$($constant),+];
    };
}

instruments! {
    INSTRUMENTS, "Every instrument of the relay, in the order of the documentation.";
    HOP_REQUESTS = InstrumentKind::Counter, "relay.hop.requests", "{request}", [
        "request": &RequestKind::NAMES,
        "outcome": &["accepted", "renewed", "denied"],
        "reason": DenyReason::METRIC_VALUES
    ],
        "Requests to reserve or to connect, by outcome.";
    RESERVATIONS = InstrumentKind::UpDownCounter, "relay.reservation.active", "{reservation}", [],
        "Peers with a reservation.";
    RESERVATION_LIMIT = InstrumentKind::Gauge, "relay.reservation.limit", "{reservation}", [],
        "Maximum number of peers with a reservation; absent if unlimited.";
    RESERVATION_DURATION = InstrumentKind::Histogram(LIFETIMES), "relay.reservation.duration", "s", ["reason": &ReservationEnd::NAMES],
        "Duration of reservations including renewals, by how they ended.";
    CIRCUITS = InstrumentKind::UpDownCounter, "relay.circuit.active", "{circuit}", [],
        "Circuits that are open or being opened.";
    CIRCUIT_LIMIT = InstrumentKind::Gauge, "relay.circuit.limit", "{circuit}", [],
        "Maximum number of circuits; absent if unlimited.";
    CIRCUIT_DURATION = InstrumentKind::Histogram(LIFETIMES), "relay.circuit.duration", "s", ["reason": &EndReason::NAMES],
        "Duration of circuits, by how they ended.";
    CIRCUIT_IO = InstrumentKind::Counter, "relay.circuit.io", "By", [
        "direction": &["to_target", "to_source"],
        "source_transport": TRANSPORTS,
        "target_transport": TRANSPORTS
    ],
        "Bytes relayed through circuits, counted on delivery.";
    THROTTLE_WAITS = InstrumentKind::Counter, "relay.throttle.waits", "{wait}", ["cause": &["receiver", "circuit", "peer", "relay"]],
        "Times that a circuit stopped reading: until the receiver accepts more data, or until the bandwidth limit of the circuit, a peer or the relay allows more.";
    BANDWIDTH_LIMIT = InstrumentKind::Gauge, "relay.bandwidth.limit", "By/s", ["scope": &BandwidthScope::NAMES],
        "Bandwidth limit in bytes per second, both directions together; absent if unlimited.";
    STOP_DURATION = InstrumentKind::Histogram(LATENCIES), "relay.stop.duration", "s", ["outcome": &StopOutcome::NAMES],
        "Time that the targets of circuits took to respond to STOP, for each attempt on one of their connections.";
    ACCESS_DECISION_DURATION = InstrumentKind::Histogram(LATENCIES), "relay.access.decision.duration", "s", [
        "outcome": &AuthorizationOutcome::NAMES
    ],
        "Duration of queries to the access endpoint, including the time in its queue; with the last four outcomes there was no decision.";
    ACCESS_LOOKUPS = InstrumentKind::Counter, "relay.access.cache.lookups", "{lookup}", ["outcome": &CacheLookup::NAMES],
        "Lookups in the cache of decisions: cached, not cached, or coalesced with an identical query in progress.";
    ACCESS_RULES = InstrumentKind::Gauge, "relay.access.rules", "{rule}", [],
        "Access rules in effect.";
    ACCESS_RELOADS = InstrumentKind::Counter, "relay.access.reloads", "{reload}", ["outcome": &["success", "failure"]],
        "Reloads of the file of access rules after a change; an invalid file is retried every minute.";
    ACCESS_STALE = InstrumentKind::Gauge, "relay.access.stale", "{state}", [],
        "1 while the file of access rules is invalid and older rules are in effect; 0 otherwise.";
    HANDSHAKE_DURATION = InstrumentKind::Histogram(LATENCIES), "relay.handshake.duration", "s", [
        "transport": TRANSPORTS,
        "security": SECURITIES,
        "outcome": &["completed", "failed"]
    ],
        "Duration of the security handshake of incoming connections.";
    CONNECTIONS = InstrumentKind::UpDownCounter, "relay.connection.active", "{connection}", ["transport": TRANSPORTS, "security": SECURITIES],
        "Established connections, after the security handshake.";
    CONNECTIONS_PENDING = InstrumentKind::UpDownCounter, "relay.connection.pending", "{connection}", [],
        "Incoming connections that are not established yet. Those of a proxy count once the PROXY header has arrived.";
    CONNECTION_LIMIT = InstrumentKind::Gauge, "relay.connection.limit", "{connection}", ["state": &["active", "pending"]],
        "Maximum number of established and of pending connections.";
    CONNECTIONS_DENIED = InstrumentKind::Counter, "relay.connection.denied", "{connection}", [
        "reason": &ConnectionDenyReason::NAMES
    ],
        "Connections that were rejected, or that were closed or lost streams because memory ran out.";
    QUIC_OFFLOAD_FALLBACKS = InstrumentKind::Counter, "relay.quic.offload.fallbacks", "{fallback}", [],
        "Times that a batch of QUIC packets could not be sent with segmentation offload; packets to its destination are then sent one by one for a minute.";
    AUTONAT_DIALS = InstrumentKind::Counter, "relay.autonat.dials", "{dial}", [
        "outcome": &DialOutcome::NAMES
    ],
        "Addresses that peers requested to be dialled over AutoNAT: dialled, or not for the stated reason. Requests without an address of the peer count once.";
    PEERS = InstrumentKind::UpDownCounter, "relay.peer.active", "{peer}", [],
        "Peers that are connected or have an open circuit.";
    RESOURCE_USAGE = InstrumentKind::Gauge, "relay.resource.usage", "{unit}", ["resource": &Resource::NAMES],
        "Units in use of each resource that address prefixes share: bytes of buffers, otherwise a count.";
    RESOURCE_LIMIT = InstrumentKind::Gauge, "relay.resource.limit", "{unit}", ["resource": &Resource::NAMES],
        "Limit of each resource that address prefixes share; absent if unlimited.";
    RESOURCE_LARGEST_PREFIX = InstrumentKind::Gauge, "relay.resource.largest_prefix", "{unit}", ["resource": &Resource::NAMES],
        "Units in use by the IPv4 address or IPv6 /64 that uses most. `/status` names it by a keyed hash.";
    PHASE = InstrumentKind::Gauge, "relay.phase", "{phase}", ["phase": &Phase::NAMES],
        "1 for the current phase of the process, 0 for the others.";
    DRAIN_TIME_LEFT = InstrumentKind::Gauge, "relay.drain.time_left", "s", [],
        "Time until the drain deadline; absent without a drain.";
    BUILD_INFO = InstrumentKind::Gauge, "relay.build.info", "{build}", ["version": &[build_info::VERSION], "revision": &[build_info::REVISION]],
        "Always 1; the attributes are the version and the source revision of the build.";
    START_TIME = InstrumentKind::Gauge, "process.start_time", "s", [],
        "Start time of the process, in seconds since the Unix epoch.";
    UPTIME = InstrumentKind::Gauge, "process.uptime", "s", [],
        "Time since the start of the process.";
    CPU_TIME = InstrumentKind::Counter, "process.cpu.time", "s", ["cpu.mode": &["user", "system"]],
        "CPU time used by the process.";
    MEMORY_USAGE = InstrumentKind::UpDownCounter, "process.memory.usage", "By", [],
        "Memory in use by the process (resident set).";
    MEMORY_LIMIT = InstrumentKind::Gauge, "relay.memory.limit", "By", [],
        "Memory limit of the relay; absent if unlimited.";
    MEMORY_VIRTUAL = InstrumentKind::UpDownCounter, "process.memory.virtual", "By", [],
        "Virtual address space of the process.";
    FILE_DESCRIPTORS = InstrumentKind::UpDownCounter, "process.unix.file_descriptor.count", "{file_descriptor}", [],
        "Open file descriptors.";
    FILE_DESCRIPTOR_LIMIT = InstrumentKind::Gauge, "relay.file_descriptor.limit", "{file_descriptor}", [],
        "Maximum number of open file descriptors; absent if unlimited.";
    THREADS = InstrumentKind::UpDownCounter, "process.thread.count", "{thread}", [],
        "Threads of the process.";
    RUNTIME_WORKERS = InstrumentKind::UpDownCounter, "relay.runtime.workers", "{thread}", [],
        "Worker threads of the runtime.";
    RUNTIME_TASKS = InstrumentKind::UpDownCounter, "relay.runtime.tasks", "{task}", [],
        "Tasks of the runtime that have not ended.";
    RUNTIME_QUEUE = InstrumentKind::UpDownCounter, "relay.runtime.queue", "{task}", [],
        "Tasks in the global queue of the runtime.";
    RUNTIME_BUSY = InstrumentKind::Counter, "relay.runtime.busy_time", "s", [],
        "Time that the worker threads of the runtime were busy, in total.";
    EXPORTS = InstrumentKind::Counter, "relay.telemetry.exports", "{export}", [
        "signal": &["traces", "metrics"],
        "outcome": &["success", "failure"]
    ],
        "Exports of batches of telemetry to the collector.";
    LOST = InstrumentKind::Counter, "relay.telemetry.lost", "{item}", ["signal": &["traces", "logs"]],
        "Log lines and spans that were lost because a queue was full.";
}

instruments! {
    DNS_INSTRUMENTS, "Every instrument of `descord-relay dns`.";
    DNS_QUERIES = InstrumentKind::Counter, "relay.dns.queries", "{query}", [
        "transport": &["udp", "tcp"],
        "outcome": OUTCOMES
    ],
        "DNS queries, by outcome.";
    DNS_RELAYS = InstrumentKind::Gauge, "relay.dns.relays", "{relay}", ["state": &["ready", "unready", "silent"]],
        "Known relays, by their state.";
    DNS_STALE = InstrumentKind::Gauge, "relay.dns.stale", "{state}", [],
        "1 while the zone holds the last good set because no relay is ready; 0 otherwise.";
}

impl Instrument {
    /// The name of the metric at `/metrics`; for a histogram, the prefix of its series.
    pub fn prometheus_name(&self) -> String {
        let derived = self.derived_name();
        conventional_name(&derived).map_or(derived, str::to_owned)
    }

    /// The labels of the metric at `/metrics`, by the names of the attributes.
    pub fn prometheus_attributes(&self) -> &'static [Attribute] {
        match conventional_name(&self.derived_name()) {
            Some(_) => &[],
            None => self.attributes,
        }
    }

    /// The name that the exporter derives: underscores for dots, the unit, and `_total` after a
    /// counter.
    fn derived_name(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            "By/s" => "_bytes_per_second",
            _ => "",
        };
        let total = match self.kind {
            InstrumentKind::Counter => "_total",
            _ => "",
        };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }

    pub(crate) fn counter(&self, meter: &Meter) -> Counter<u64> {
        meter
            .u64_counter(self.name)
            .with_unit(self.unit)
            .with_description(self.description)
            .build()
    }

    pub(super) fn up_down_counter(&self, meter: &Meter) -> UpDownCounter<i64> {
        meter
            .i64_up_down_counter(self.name)
            .with_unit(self.unit)
            .with_description(self.description)
            .build()
    }

    pub(super) fn histogram(&self, meter: &Meter) -> Histogram<f64> {
        let bounds = match self.kind {
            InstrumentKind::Histogram(bounds) => bounds.to_vec(),
            _ => Vec::new(),
        };
        meter
            .f64_histogram(self.name)
            .with_unit(self.unit)
            .with_description(self.description)
            .with_boundaries(bounds)
            .build()
    }

    /// Registers a callback for integer values.
    pub(crate) fn observe(
        &self,
        meter: &Meter,
        observe: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
    ) {
        match self.kind {
            InstrumentKind::Counter => {
                meter
                    .u64_observable_counter(self.name)
                    .with_unit(self.unit)
                    .with_description(self.description)
                    .with_callback(observe)
                    .build();
            }
            InstrumentKind::UpDownCounter => {
                meter
                    .i64_observable_up_down_counter(self.name)
                    .with_unit(self.unit)
                    .with_description(self.description)
                    .with_callback(move |observer: &dyn AsyncInstrument<i64>| {
                        observe(&Signed(observer));
                    })
                    .build();
            }
            InstrumentKind::Gauge | InstrumentKind::Histogram(_) => {
                meter
                    .u64_observable_gauge(self.name)
                    .with_unit(self.unit)
                    .with_description(self.description)
                    .with_callback(observe)
                    .build();
            }
        }
    }

    /// Registers a callback for floating-point values.
    pub(crate) fn observe_f64(
        &self,
        meter: &Meter,
        observe: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
    ) {
        if self.kind == InstrumentKind::Counter {
            meter
                .f64_observable_counter(self.name)
                .with_unit(self.unit)
                .with_description(self.description)
                .with_callback(observe)
                .build();
        } else {
            meter
                .f64_observable_gauge(self.name)
                .with_unit(self.unit)
                .with_description(self.description)
                .with_callback(observe)
                .build();
        }
    }
}

/// Up-down counters are signed in OpenTelemetry; the relay's values are never negative.
struct Signed<'a>(&'a dyn AsyncInstrument<i64>);

impl AsyncInstrument<u64> for Signed<'_> {
    fn observe(&self, value: u64, attributes: &[KeyValue]) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.observe(value, attributes);
    }
}
