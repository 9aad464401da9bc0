//! Every instrument of the relay, named and described once.
//!
//! Names are those of OpenTelemetry; Prometheus reads them with `_` for `.`, the unit at the end,
//! and `_total` after a counter. Whatever peers do, an attribute takes few values, which are all
//! listed here: never a peer id, an address, or anything else that a peer chooses.

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Counter, Histogram, Meter, UpDownCounter},
};

use crate::{
    access::{AuthorizationOutcome, CacheLookup},
    connection_deny_reason::ConnectionDenyReason,
    dialback::DialOutcome,
    lifecycle::Phase,
    relay::{
        DenyReason, StopOutcome, bandwidth::BandwidthScope, circuit::EndReason,
        ledger::ReservationEnd,
    },
    resources::Resource,
};

/// What an instrument measures, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instrument {
    /// As OpenTelemetry has it.
    pub name: &'static str,
    /// How values add up.
    pub kind: Kind,
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
pub enum Kind {
    /// They only grow.
    Counter,
    /// They come and go, and add up over relays.
    UpDownCounter,
    /// The value of this moment.
    Gauge,
    /// How values are spread, over buckets that end at these bounds.
    Histogram(&'static [f64]),
}

impl Kind {
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

const TRANSPORTS: &[&str] = &["tcp", "quic", "websocket"];
const SECURITIES: &[&str] = &["tls", "noise"];
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
    HOP_REQUESTS = Kind::Counter, "relay.hop.requests", "{request}", [
        "request": &["reserve", "connect", "unknown"],
        "outcome": &["accepted", "renewed", "denied"],
        "reason": DenyReason::METRIC_VALUES
    ],
        "Requests of clients to reserve or to connect, by what came of them.";
    RESERVATIONS = Kind::UpDownCounter, "relay.reservation.active", "{reservation}", [],
        "Peers that hold a reservation.";
    RESERVATION_LIMIT = Kind::Gauge, "relay.reservation.limit", "{reservation}", [],
        "Peers that may hold a reservation at once; absent when that is unlimited.";
    RESERVATION_DURATION = Kind::Histogram(LIFETIMES), "relay.reservation.duration", "s", ["reason": &ReservationEnd::NAMES],
        "How long reservations lasted, renewals included, by how they ended.";
    CIRCUITS = Kind::UpDownCounter, "relay.circuit.active", "{circuit}", [],
        "Circuits that are open or being opened.";
    CIRCUIT_LIMIT = Kind::Gauge, "relay.circuit.limit", "{circuit}", [],
        "Circuits that may be open at once; absent when that is unlimited.";
    CIRCUIT_DURATION = Kind::Histogram(LIFETIMES), "relay.circuit.duration", "s", ["reason": &EndReason::NAMES],
        "How long circuits lasted, by how they ended.";
    CIRCUIT_IO = Kind::Counter, "relay.circuit.io", "By", [
        "direction": &["to_target", "to_source"],
        "source_transport": TRANSPORTS,
        "target_transport": TRANSPORTS
    ],
        "Bytes that circuits carried, as they were handed over.";
    THROTTLE_WAITS = Kind::Counter, "relay.throttle.waits", "{wait}", ["cause": &["receiver", "circuit", "peer", "relay"]],
        "Times that a circuit stopped reading until it may go on: until the receiver takes more, or for its turn in the bandwidth of the circuit, a peer or the relay.";
    BANDWIDTH_LIMIT = Kind::Gauge, "relay.bandwidth.limit", "By/s", ["scope": &BandwidthScope::NAMES],
        "Bytes a second that may pass, both directions together; absent where that is unlimited.";
    STOP_DURATION = Kind::Histogram(LATENCIES), "relay.stop.duration", "s", ["outcome": &StopOutcome::NAMES],
        "How long the targets of circuits took to answer STOP, for each attempt on one of their connections.";
    ACCESS_DECISION_DURATION = Kind::Histogram(LATENCIES), "relay.access.decision.duration", "s", [
        "outcome": &AuthorizationOutcome::NAMES
    ],
        "How long the access endpoint took to decide, waiting for others included; with the last four outcomes it did not.";
    ACCESS_LOOKUPS = Kind::Counter, "relay.access.cache.lookups", "{lookup}", ["outcome": &CacheLookup::NAMES],
        "Questions for the access endpoint: the decision was remembered, was not, or came from an identical question under way.";
    ACCESS_RULES = Kind::Gauge, "relay.access.rules", "{rule}", [],
        "Access rules that hold.";
    ACCESS_RELOADS = Kind::Counter, "relay.access.reloads", "{reload}", ["outcome": &["success", "failure"]],
        "Times that the file of access rules had changed and was read again; one that cannot be used is read every minute.";
    ACCESS_STALE = Kind::Gauge, "relay.access.stale", "{state}", [],
        "1 while the file of access rules cannot be used and older rules hold; 0 otherwise.";
    HANDSHAKE_DURATION = Kind::Histogram(LATENCIES), "relay.handshake.duration", "s", [
        "transport": TRANSPORTS,
        "security": SECURITIES,
        "outcome": &["completed", "failed"]
    ],
        "How long a peer that connected and the relay took to prove who they are.";
    CONNECTIONS = Kind::UpDownCounter, "relay.connection.active", "{connection}", ["transport": TRANSPORTS, "security": SECURITIES],
        "Connections whose peer has proved who it is.";
    CONNECTIONS_PENDING = Kind::UpDownCounter, "relay.connection.pending", "{connection}", [],
        "Connections that come in and are not up yet. Those of a proxy count when it has told where they come from.";
    CONNECTION_LIMIT = Kind::Gauge, "relay.connection.limit", "{connection}", ["state": &["active", "pending"]],
        "Connections that may be up, or on their way, at once.";
    CONNECTIONS_DENIED = Kind::Counter, "relay.connection.denied", "{connection}", [
        "reason": &ConnectionDenyReason::NAMES
    ],
        "Connections that were refused, or closed or relieved of streams because memory ran out.";
    QUIC_OFFLOAD_FALLBACKS = Kind::Counter, "relay.quic.offload.fallbacks", "{fallback}", [],
        "Times that a batch of QUIC packets could not be sent with segmentation offload, so that packets to its destination are sent one by one for a minute.";
    AUTONAT_DIALS = Kind::Counter, "relay.autonat.dials", "{dial}", [
        "outcome": &DialOutcome::NAMES
    ],
        "Dials that peers asked for by AutoNAT v2: dialled, or refused for the named reason.";
    PEERS = Kind::UpDownCounter, "relay.peer.active", "{peer}", [],
        "Peers that are connected or have a circuit open.";
    RESOURCE_USAGE = Kind::Gauge, "relay.resource.usage", "{unit}", ["resource": &Resource::NAMES],
        "Units of each resource that address prefixes share which are in use: bytes of buffers, else a count.";
    RESOURCE_LIMIT = Kind::Gauge, "relay.resource.limit", "{unit}", ["resource": &Resource::NAMES],
        "Units of each resource that there are; absent where that is unlimited.";
    RESOURCE_LARGEST_PREFIX = Kind::Gauge, "relay.resource.largest_prefix", "{unit}", ["resource": &Resource::NAMES],
        "Units that one IPv4 address or IPv6 /64 uses, for the one that uses most. `/status` names it by a keyed hash.";
    PHASE = Kind::Gauge, "relay.phase", "{phase}", ["phase": &Phase::NAMES],
        "1 for the phase that the relay is in, 0 for the others.";
    DRAIN_TIME_LEFT = Kind::Gauge, "relay.drain.time_left", "s", [],
        "Until a drain cuts what is still open; absent while there is no drain.";
    UPTIME = Kind::Gauge, "process.uptime", "s", [],
        "Since the relay was started.";
    CPU_TIME = Kind::Counter, "process.cpu.time", "s", ["cpu.mode": &["user", "system"]],
        "Processor time that the relay has used.";
    MEMORY_USAGE = Kind::UpDownCounter, "process.memory.usage", "By", [],
        "Memory that the relay has in use (resident set).";
    MEMORY_LIMIT = Kind::Gauge, "relay.memory.limit", "By", [],
        "Memory that the relay may use; absent when that is unlimited.";
    MEMORY_VIRTUAL = Kind::UpDownCounter, "process.memory.virtual", "By", [],
        "Address space that the relay has taken.";
    FILE_DESCRIPTORS = Kind::UpDownCounter, "process.unix.file_descriptor.count", "{file_descriptor}", [],
        "Files, sockets and pipes that are open.";
    FILE_DESCRIPTOR_LIMIT = Kind::Gauge, "relay.file_descriptor.limit", "{file_descriptor}", [],
        "Files, sockets and pipes that may be open at once; absent when that is unlimited.";
    THREADS = Kind::UpDownCounter, "process.thread.count", "{thread}", [],
        "Threads of the process.";
    RUNTIME_WORKERS = Kind::UpDownCounter, "relay.runtime.workers", "{thread}", [],
        "Threads that run the relay's tasks.";
    RUNTIME_TASKS = Kind::UpDownCounter, "relay.runtime.tasks", "{task}", [],
        "Tasks that have not ended.";
    RUNTIME_QUEUE = Kind::UpDownCounter, "relay.runtime.queue", "{task}", [],
        "Tasks that wait in the queue that all threads share.";
    RUNTIME_BUSY = Kind::Counter, "relay.runtime.busy_time", "s", [],
        "Time that the threads spent on running tasks, all together.";
    EXPORTS = Kind::Counter, "relay.telemetry.exports", "{export}", [
        "signal": &["traces", "metrics"],
        "outcome": &["success", "failure"]
    ],
        "Batches of telemetry that were sent to the collector.";
    LOST = Kind::Counter, "relay.telemetry.lost", "{item}", ["signal": &["traces", "logs"]],
        "Lines of the log and spans that were lost: nobody took them in time.";
}

instruments! {
    DNS_INSTRUMENTS, "Every instrument of `descord-relay dns`.";
    DNS_QUERIES = Kind::Counter, "relay.dns.queries", "{query}", [
        "transport": &["udp", "tcp"],
        "outcome": OUTCOMES
    ],
        "Queries to the answerer, by what came of them.";
    DNS_RELAYS = Kind::Gauge, "relay.dns.relays", "{relay}", ["state": &["ready", "unready", "silent"]],
        "Relays that the answerer knows of, by what they say.";
    DNS_STALE = Kind::Gauge, "relay.dns.stale", "{state}", [],
        "1 while the zone holds the last good set, as no relay is ready; 0 otherwise.";
}

impl Instrument {
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
            Kind::Histogram(bounds) => bounds.to_vec(),
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
            Kind::Counter => {
                meter
                    .u64_observable_counter(self.name)
                    .with_unit(self.unit)
                    .with_description(self.description)
                    .with_callback(observe)
                    .build();
            }
            Kind::UpDownCounter => {
                meter
                    .i64_observable_up_down_counter(self.name)
                    .with_unit(self.unit)
                    .with_description(self.description)
                    .with_callback(move |observer: &dyn AsyncInstrument<i64>| {
                        observe(&Signed(observer));
                    })
                    .build();
            }
            Kind::Gauge | Kind::Histogram(_) => {
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
    pub(super) fn observe_f64(
        &self,
        meter: &Meter,
        observe: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
    ) {
        if self.kind == Kind::Counter {
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
