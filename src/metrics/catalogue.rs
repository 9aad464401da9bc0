//! Every instrument of the relay, named and described once.
//!
//! Names follow the semantic conventions of OpenTelemetry. In the Prometheus exposition they have
//! `_` for `.`, the unit at the end, and `_total` after a counter, except that the metrics of the
//! process have the names that Prometheus client libraries give them. The values of an attribute
//! are few and all listed here: never a peer id, an address, or anything else that a peer chooses.

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Counter, Histogram, Meter, UpDownCounter},
};

use crate::{lifecycle::Phase, resources::Resource};

/// What an instrument measures, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instrument {
    /// As OpenTelemetry has it.
    pub name: &'static str,
    /// How values add up.
    pub kind: InstrumentKind,
    /// As [UCUM](https://ucum.org) writes it.
    pub unit: &'static str,
    /// What its values are told apart by.
    pub attributes: &'static [Attribute],
    /// In one sentence.
    pub description: &'static str,
}

/// What the values of an instrument are told apart by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribute {
    /// Its name.
    pub key: &'static str,
    /// All that it can be.
    pub values: &'static [&'static str],
}

/// How the values of an instrument add up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InstrumentKind {
    /// They only grow.
    Counter,
    /// They come and go, and add up over relays.
    UpDownCounter,
    /// The value of this moment.
    Gauge,
    /// How values are spread, over buckets that end at these bounds.
    Histogram(&'static [f64]),
}

impl InstrumentKind {
    /// A word for documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::UpDownCounter => "up-down counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Beyond the 8 s of a STOP and the 10 s after which a handshake is given up.
const LATENCIES: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0,
];
/// From a handshake that fails at once to a circuit of a day.
const LIFETIMES: &[f64] = &[
    0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0,
];

/// The version of the build.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The source revision of the build, which the `Dockerfile` sets.
const REVISION: &str = match option_env!("DESCORD_RELAY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Metrics of the process under the names that Prometheus client libraries give them, by the names
/// that would follow from OpenTelemetry's semantic conventions. They have no labels.
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
/// Those of [`Deny::parts`](crate::relay::Deny::parts), for requests that were denied.
const DENIALS: &[&str] = &[
    "none",
    "relayed_connection",
    "connect_to_self",
    "access_rules",
    "access_decision",
    "access_unavailable",
    "access_busy",
    "max_reservations",
    "max_reservations_per_ip",
    "reservation_share",
    "rate_reservations_per_peer",
    "rate_reservations_per_ip",
    "draining",
    "no_address",
    "disconnected",
    "no_reservation",
    "max_circuits",
    "max_circuits_source",
    "max_circuits_target",
    "circuit_share_source",
    "circuit_share_target",
    "rate_circuits_per_peer",
    "rate_circuits_per_ip",
    "evicted",
    "stop_failed",
    "malformed_message",
    "unexpected_message",
    "request_timeout",
    "answer_undelivered",
];
/// Those of [`End::reason`](crate::relay::circuit::End::reason).
const ENDS: &[&str] = &[
    "eof",
    "max_bytes",
    "max_duration",
    "drained",
    "reset",
    "connection_lost",
    "unused",
    "idle",
    "evicted",
];

/// What becomes of a query for the fleet's zone.
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

/// `instruments! { LIST, "what it is of"; NAME = kind, "name", "unit", ["key": values, …], "description"; … }`: a
/// constant for each instrument, and a list of them all.
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
    INSTRUMENTS, "Every instrument of the relay, in the order in which the documentation lists them.";
    HOP_REQUESTS = InstrumentKind::Counter, "relay.hop.requests", "{request}", [
        "request": &["reserve", "connect", "unknown"],
        "outcome": &["accepted", "renewed", "denied"],
        "reason": DENIALS
    ],
        "Requests of clients to reserve or to connect, by what came of them.";
    RESERVATIONS = InstrumentKind::UpDownCounter, "relay.reservation.active", "{reservation}", [],
        "Peers that hold a reservation.";
    RESERVATION_LIMIT = InstrumentKind::Gauge, "relay.reservation.limit", "{reservation}", [],
        "Peers that may hold a reservation at once; absent when that is unlimited.";
    RESERVATION_DURATION = InstrumentKind::Histogram(LIFETIMES), "relay.reservation.duration", "s", ["reason": &["expired", "closed"]],
        "How long reservations lasted, renewals included, by how they ended.";
    CIRCUITS = InstrumentKind::UpDownCounter, "relay.circuit.active", "{circuit}", [],
        "Circuits that are open or being opened.";
    CIRCUIT_LIMIT = InstrumentKind::Gauge, "relay.circuit.limit", "{circuit}", [],
        "Circuits that may be open at once; absent when that is unlimited.";
    CIRCUIT_DURATION = InstrumentKind::Histogram(LIFETIMES), "relay.circuit.duration", "s", ["reason": ENDS],
        "How long circuits lasted, by how they ended.";
    CIRCUIT_IO = InstrumentKind::Counter, "relay.circuit.io", "By", [
        "direction": &["to_target", "to_source"],
        "source_transport": TRANSPORTS,
        "target_transport": TRANSPORTS
    ],
        "Bytes that circuits carried, as they were handed over.";
    THROTTLE_WAITS = InstrumentKind::Counter, "relay.throttle.waits", "{wait}", ["cause": &["receiver", "circuit", "peer", "relay"]],
        "Times that a circuit stopped reading until it may go on: until the receiver takes more, or for its turn in the bandwidth of the circuit, a peer or the relay.";
    BANDWIDTH_LIMIT = InstrumentKind::Gauge, "relay.bandwidth.limit", "By/s", ["scope": &["circuit", "peer", "relay"]],
        "Bytes a second that may pass, both directions together; absent where that is unlimited.";
    STOP_DURATION = InstrumentKind::Histogram(LATENCIES), "relay.stop.duration", "s", ["outcome": &["accepted", "refused", "failed", "abandoned"]],
        "How long the targets of circuits took to answer STOP, for each attempt on one of their connections.";
    ACCESS_DECISION_DURATION = InstrumentKind::Histogram(LATENCIES), "relay.access.decision.duration", "s", [
        "outcome": &["allowed", "denied", "timeout", "unreachable", "invalid", "overloaded"]
    ],
        "How long the access endpoint took to decide, waiting for others included; with the last four outcomes it did not.";
    ACCESS_LOOKUPS = InstrumentKind::Counter, "relay.access.cache.lookups", "{lookup}", ["outcome": &["hit", "miss", "coalesced"]],
        "Questions for the access endpoint: the decision was remembered, was not, or came from an identical question under way.";
    ACCESS_RULES = InstrumentKind::Gauge, "relay.access.rules", "{rule}", [],
        "Access rules that hold.";
    ACCESS_RELOADS = InstrumentKind::Counter, "relay.access.reloads", "{reload}", ["outcome": &["success", "failure"]],
        "Times that the file of access rules had changed and was read again; one that cannot be used is read every minute.";
    ACCESS_STALE = InstrumentKind::Gauge, "relay.access.stale", "{state}", [],
        "1 while the file of access rules cannot be used and older rules hold; 0 otherwise.";
    HANDSHAKE_DURATION = InstrumentKind::Histogram(LATENCIES), "relay.handshake.duration", "s", [
        "transport": TRANSPORTS,
        "security": SECURITIES,
        "outcome": &["completed", "failed"]
    ],
        "How long a peer that connected and the relay took to prove who they are.";
    CONNECTIONS = InstrumentKind::UpDownCounter, "relay.connection.active", "{connection}", ["transport": TRANSPORTS, "security": SECURITIES],
        "Connections whose peer has proved who it is.";
    CONNECTIONS_PENDING = InstrumentKind::UpDownCounter, "relay.connection.pending", "{connection}", [],
        "Connections that come in and are not up yet. Those of a proxy count when it has told where they come from.";
    CONNECTION_LIMIT = InstrumentKind::Gauge, "relay.connection.limit", "{connection}", ["state": &["active", "pending"]],
        "Connections that may be up, or on their way, at once.";
    CONNECTIONS_DENIED = InstrumentKind::Counter, "relay.connection.denied", "{connection}", [
        "reason": &["max_pending", "max_connections", "connection_share", "evicted", "max_connections_per_peer", "rate_connections_per_ip", "memory", "file_descriptors", "file_descriptor_share", "proxy_header", "draining", "other"]
    ],
        "Connections that were refused, or closed or relieved of streams because memory ran out.";
    QUIC_OFFLOAD_FALLBACKS = InstrumentKind::Counter, "relay.quic.offload.fallbacks", "{fallback}", [],
        "Times that a batch of QUIC packets could not be sent with segmentation offload, so that packets to its destination are sent one by one for a minute.";
    AUTONAT_DIALS = InstrumentKind::Counter, "relay.autonat.dials", "{dial}", [
        "outcome": &["dialled", "foreign_address", "rate_per_peer", "rate_per_ip", "rate_total", "max_dials"]
    ],
        "Dials that peers asked for by AutoNAT v2: dialled, or refused for the named reason.";
    PEERS = InstrumentKind::UpDownCounter, "relay.peer.active", "{peer}", [],
        "Peers that are connected or have a circuit open.";
    RESOURCE_USAGE = InstrumentKind::Gauge, "relay.resource.usage", "{unit}", ["resource": &Resource::NAMES],
        "Units of each resource that address prefixes share which are in use: bytes of buffers, else a count.";
    RESOURCE_LIMIT = InstrumentKind::Gauge, "relay.resource.limit", "{unit}", ["resource": &Resource::NAMES],
        "Units of each resource that there are; absent where that is unlimited.";
    RESOURCE_LARGEST_PREFIX = InstrumentKind::Gauge, "relay.resource.largest_prefix", "{unit}", ["resource": &Resource::NAMES],
        "Units that one IPv4 address or IPv6 /64 uses, for the one that uses most. `/status` names it by a keyed hash.";
    PHASE = InstrumentKind::Gauge, "relay.phase", "{phase}", ["phase": &Phase::WORDS],
        "1 for the phase that the relay is in, 0 for the others.";
    DRAIN_TIME_LEFT = InstrumentKind::Gauge, "relay.drain.time_left", "s", [],
        "Until a drain cuts what is still open; absent while there is no drain.";
    BUILD_INFO = InstrumentKind::Gauge, "relay.build.info", "{build}", ["version": &[VERSION], "revision": &[REVISION]],
        "Always 1; the version and the source revision of the build are its attributes.";
    START_TIME = InstrumentKind::Gauge, "process.start_time", "s", [],
        "Start time of the process, in seconds since the Unix epoch.";
    UPTIME = InstrumentKind::Gauge, "process.uptime", "s", [],
        "Since the relay was started.";
    CPU_TIME = InstrumentKind::Counter, "process.cpu.time", "s", ["cpu.mode": &["user", "system"]],
        "Processor time that the relay has used.";
    MEMORY_USAGE = InstrumentKind::UpDownCounter, "process.memory.usage", "By", [],
        "Memory that the relay has in use (resident set).";
    MEMORY_LIMIT = InstrumentKind::Gauge, "relay.memory.limit", "By", [],
        "Memory that the relay may use; absent when that is unlimited.";
    MEMORY_VIRTUAL = InstrumentKind::UpDownCounter, "process.memory.virtual", "By", [],
        "Address space that the relay has taken.";
    FILE_DESCRIPTORS = InstrumentKind::UpDownCounter, "process.unix.file_descriptor.count", "{file_descriptor}", [],
        "Files, sockets and pipes that are open.";
    FILE_DESCRIPTOR_LIMIT = InstrumentKind::Gauge, "relay.file_descriptor.limit", "{file_descriptor}", [],
        "Files, sockets and pipes that may be open at once; absent when that is unlimited.";
    THREADS = InstrumentKind::UpDownCounter, "process.thread.count", "{thread}", [],
        "Threads of the process.";
    RUNTIME_WORKERS = InstrumentKind::UpDownCounter, "relay.runtime.workers", "{thread}", [],
        "Threads that run the relay's tasks.";
    RUNTIME_TASKS = InstrumentKind::UpDownCounter, "relay.runtime.tasks", "{task}", [],
        "Tasks that have not ended.";
    RUNTIME_QUEUE = InstrumentKind::UpDownCounter, "relay.runtime.queue", "{task}", [],
        "Tasks that wait in the queue that all threads share.";
    RUNTIME_BUSY = InstrumentKind::Counter, "relay.runtime.busy_time", "s", [],
        "Time that the threads spent on running tasks, all together.";
    EXPORTS = InstrumentKind::Counter, "relay.telemetry.exports", "{export}", [
        "signal": &["traces", "metrics"],
        "outcome": &["success", "failure"]
    ],
        "Batches of telemetry that were sent to the collector.";
    LOST = InstrumentKind::Counter, "relay.telemetry.lost", "{item}", ["signal": &["traces", "logs"]],
        "Lines of the log and spans that were lost: nobody took them in time.";
}

instruments! {
    DNS_INSTRUMENTS, "Every instrument of `descord-relay dns`.";
    DNS_QUERIES = InstrumentKind::Counter, "relay.dns.queries", "{query}", [
        "transport": &["udp", "tcp"],
        "outcome": OUTCOMES
    ],
        "Queries to the answerer, by what came of them.";
    DNS_RELAYS = InstrumentKind::Gauge, "relay.dns.relays", "{relay}", ["state": &["ready", "unready", "silent"]],
        "Relays that the answerer knows of, by what they say.";
    DNS_STALE = InstrumentKind::Gauge, "relay.dns.stale", "{state}", [],
        "1 while the zone holds the last good set, as no relay is ready; 0 otherwise.";
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

    /// Asks `observe` for whole numbers whenever somebody reads.
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

    /// Asks `observe` for fractions whenever somebody reads.
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

/// Up-down counters are signed in OpenTelemetry; what the relay counts never is.
struct Signed<'a>(&'a dyn AsyncInstrument<i64>);

impl AsyncInstrument<u64> for Signed<'_> {
    fn observe(&self, value: u64, attributes: &[KeyValue]) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.observe(value, attributes);
    }
}
