//! The table of all variables: name, default, meaning, and the field that each one fills.

use std::time::Duration;

use super::Config;
use super::access::{
    AccessEntries, BearerToken, CountInRange, DurationRange, EndpointUrl, FilePath,
};
use super::address::{ExternalAddresses, ListenAddresses};
use super::dns::{DnsTtl, InstanceNames, NameServers, RelayHosts, SocketAddresses, ZoneName};
use super::error::VariableError;
use super::resources::{BurstAndRate, MemoryLimitFormat, NetworkList, PrefixShares};
use super::value_format::{
    Choice, Count, CountUpTo, DurationOrZero, InstanceName, MinDuration, OptionalSocketAddress,
    PrivateKey, Seed, Size, SizeOrZero, ValueFormat,
};
use crate::access::{Effect, MAX_CONCURRENCY, MAX_REMEMBERED, OnError, Scope};
use crate::peers::MAX_CAPACITY;
use crate::pseudonym::PeerIds;
use crate::telemetry::log::LogFormat;

/// What every name of ours starts with.
pub(super) const PREFIX: &str = "RELAY_";

/// What the name of a variable that holds the path of a secret ends in.
pub(super) const FILE_SUFFIX: &str = "_FILE";

/// The names that more than this table speaks of.
pub(super) mod name {
    pub(in crate::config) const INSTANCE: &str = "RELAY_INSTANCE";
    pub(in crate::config) const SEED: &str = "RELAY_IDENTITY_SEED";
    pub(in crate::config) const KEY: &str = "RELAY_IDENTITY_KEY";
    pub(in crate::config) const RESERVATIONS: &str = "RELAY_MAX_RESERVATIONS";
    pub(in crate::config) const RESERVATIONS_PER_IP: &str = "RELAY_MAX_RESERVATIONS_PER_IP";
    pub(in crate::config) const RESERVATION_TTL: &str = "RELAY_RESERVATION_TTL";
    pub(in crate::config) const CIRCUITS: &str = "RELAY_MAX_CIRCUITS";
    pub(in crate::config) const CIRCUITS_PER_PEER: &str = "RELAY_MAX_CIRCUITS_PER_PEER";
    pub(in crate::config) const CIRCUITS_PER_SOURCE: &str = "RELAY_MAX_CIRCUITS_PER_SOURCE";
    pub(in crate::config) const CIRCUITS_PER_TARGET: &str = "RELAY_MAX_CIRCUITS_PER_TARGET";
    pub(in crate::config) const CIRCUIT_DURATION: &str = "RELAY_MAX_CIRCUIT_DURATION";
    pub(in crate::config) const TRUSTED_PROXIES: &str = "RELAY_TRUSTED_PROXIES";
    pub(in crate::config) const BANDWIDTH: &str = "RELAY_MAX_BANDWIDTH";
    pub(in crate::config) const BANDWIDTH_PER_PEER: &str = "RELAY_MAX_BANDWIDTH_PER_PEER";
    pub(in crate::config) const BANDWIDTH_PER_CIRCUIT: &str = "RELAY_MAX_BANDWIDTH_PER_CIRCUIT";
    pub(in crate::config) const BURST: &str = "RELAY_MAX_BURST";
    pub(in crate::config) const BURST_PER_PEER: &str = "RELAY_MAX_BURST_PER_PEER";
    pub(in crate::config) const BURST_PER_CIRCUIT: &str = "RELAY_MAX_BURST_PER_CIRCUIT";
    pub(in crate::config) const ACCESS_URL: &str = "RELAY_ACCESS_URL";
    pub(in crate::config) const ACCESS_TOKEN: &str = "RELAY_ACCESS_TOKEN";
    pub(in crate::config) const ACCESS_CA_FILE: &str = "RELAY_ACCESS_CA_FILE";
    pub(in crate::config) const ACCESS_TIMEOUT: &str = "RELAY_ACCESS_TIMEOUT";
    pub(in crate::config) const ACCESS_ON_ERROR: &str = "RELAY_ACCESS_ON_ERROR";
    pub(in crate::config) const ACCESS_CACHE_TTL: &str = "RELAY_ACCESS_CACHE_TTL";
    pub(in crate::config) const ACCESS_CACHE_CAPACITY: &str = "RELAY_ACCESS_CACHE_CAPACITY";
    pub(in crate::config) const ACCESS_CONCURRENCY: &str = "RELAY_ACCESS_CONCURRENCY";
    pub(in crate::config) const DRAIN_WINDOW: &str = "RELAY_DRAIN_WINDOW";
    pub(in crate::config) const DRAIN_TIMEOUT: &str = "RELAY_DRAIN_TIMEOUT";
    pub(in crate::config) const DNS_SERVERS: &str = "RELAY_DNS_NS";
}

/// Variables that were renamed, as pairs of the old and the new name. The old name is an error, so
/// that its value is never ignored silently.
pub(super) const RENAMED_VARIABLES: [(&str, &str); 2] = [
    ("RELAY_ACCESS_CERTIFICATE", name::ACCESS_CA_FILE),
    ("RELAY_PROXY_PROTOCOL_FROM", name::TRUSTED_PROXIES),
];

/// One environment variable.
pub(super) struct Variable {
    /// The full name.
    pub(super) name: &'static str,
    /// What holds when the variable is not set.
    pub(super) default: DefaultValue,
    /// What it means, in one sentence or two.
    pub(super) doc: &'static str,
    /// How its text is treated before it is parsed.
    pub(super) handling: TextHandling,
    /// What may be written, and where it goes.
    pub(super) field: Field,
}

/// The value of a variable that is not set.
#[derive(Clone, Copy)]
pub(super) enum DefaultValue {
    /// The value of the field in [`Config::default`].
    FromConfig,
    /// A default that depends on the machine or on other variables, in words.
    Described(&'static str),
}

/// How a text is treated before it is parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TextHandling {
    /// Trimmed; empty counts as not set.
    Plain,
    /// Trimmed; empty means something.
    EmptyIsValue,
    /// Trimmed, placeholders replaced; empty counts as not set.
    Template,
    /// Trimmed; empty counts as not set. A wrong value is not shown: it may contain a password.
    Url,
    /// Only line breaks at the end are taken off; never shown; may come from a file.
    Secret,
}

/// A field of [`Config`], seen as text.
pub(super) struct Field {
    pub(super) allowed: fn() -> String,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

/// `field!(ValueFormat => path.of.field)`: a field whose texts are of that [`ValueFormat`].
macro_rules! field {
    ($format:expr => $($field:ident).+) => {
        Field {
            allowed: || $format.allowed(),
            set: |config, text| {
                config.$($field).+ = $format.parse(text)?;
                Ok(())
            },
            show: |config| $format.show(&config.$($field).+),
        }
    };
}

const ANY_DURATION: MinDuration = MinDuration {
    min: Duration::ZERO,
};
const AT_LEAST_1S: MinDuration = MinDuration {
    min: Duration::from_secs(1),
};
const AT_LEAST_5S: MinDuration = MinDuration {
    min: Duration::from_secs(5),
};
const AT_LEAST_30S: MinDuration = MinDuration {
    min: Duration::from_secs(30),
};
const ACCESS_TIMEOUT_RANGE: DurationRange = DurationRange {
    min: Duration::from_millis(10),
    max: Duration::from_secs(10),
};
const RATE: SizeOrZero = SizeOrZero {
    what: "a size for each second",
    zero: "unlimited",
};
const BURST: SizeOrZero = SizeOrZero {
    what: "a size",
    zero: "a second's worth, and 64KiB at least",
};
const ON_ERROR: Choice<OnError> = Choice(&OnError::ALL);
const LOG_FORMATS: Choice<LogFormat> = Choice(&LogFormat::ALL);
const PEER_IDS: Choice<PeerIds> = Choice(&PeerIds::ALL);

/// Every variable, in the order in which people meet them.
pub(super) static VARIABLES: &[Variable] = &[
    Variable {
        name: "RELAY_LISTEN_ADDRESSES",
        default: DefaultValue::FromConfig,
        doc: "Where the relay accepts connections: TCP, QUIC and WebSocket.",
        handling: TextHandling::Plain,
        field: field!(ListenAddresses => listen_addresses),
    },
    Variable {
        name: "RELAY_EXTERNAL_ADDRESSES",
        default: DefaultValue::Described("the addresses of the machine's own interfaces"),
        doc: "The addresses that clients are told to dial, without the peer id. `{instance}` \
              stands for `RELAY_INSTANCE`, `{index}` for the number at its end (`relay-2`: `2`).",
        handling: TextHandling::Template,
        field: field!(ExternalAddresses => external_addresses),
    },
    Variable {
        name: name::INSTANCE,
        default: DefaultValue::Described("the machine's host name"),
        doc: "The name of this relay within its fleet. Together with the seed it gives the peer \
              id, so it must be unique and stay the same over restarts.",
        handling: TextHandling::Plain,
        field: field!(InstanceName => identity.instance),
    },
    Variable {
        name: name::SEED,
        default: DefaultValue::Described("none"),
        doc: "The secret of the fleet, the same for all its relays: peer ids and pseudonyms are \
              derived from it. With neither seed nor key the peer id changes at every start.",
        handling: TextHandling::Secret,
        field: field!(Seed => identity.seed),
    },
    Variable {
        name: name::KEY,
        default: DefaultValue::Described("none"),
        doc: "The private key of this relay, instead of a seed.",
        handling: TextHandling::Secret,
        field: field!(PrivateKey => identity.key),
    },
    Variable {
        name: name::RESERVATIONS,
        default: DefaultValue::FromConfig,
        doc: "Peers that hold a reservation at once.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.reservations),
    },
    Variable {
        name: "RELAY_MAX_RESERVATIONS_PER_PEER",
        default: DefaultValue::FromConfig,
        doc: "Connections of one peer that may hold its reservation.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.reservations_per_peer),
    },
    Variable {
        name: name::RESERVATIONS_PER_IP,
        default: DefaultValue::FromConfig,
        doc: "Reservations made from one IP address (IPv6: from one /64).",
        handling: TextHandling::Plain,
        field: field!(Count => limits.reservations_per_ip),
    },
    Variable {
        name: name::RESERVATION_TTL,
        default: DefaultValue::FromConfig,
        doc: "How long a reservation lives unless it is renewed. Clients renew minutes before \
              the end, so values below 3m lead to gaps.",
        handling: TextHandling::Plain,
        field: field!(AT_LEAST_30S => limits.reservation_ttl),
    },
    Variable {
        name: name::CIRCUITS,
        default: DefaultValue::FromConfig,
        doc: "Circuits open at once.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.circuits),
    },
    Variable {
        name: name::CIRCUITS_PER_PEER,
        default: DefaultValue::FromConfig,
        doc: "Circuits of one peer as source, and as many as target. Sets \
              `RELAY_MAX_CIRCUITS_PER_SOURCE` and `RELAY_MAX_CIRCUITS_PER_TARGET`, unless those are \
              set themselves.",
        handling: TextHandling::Plain,
        field: Field {
            allowed: || Count.allowed(),
            set: |config, text| {
                let limit = Count.parse(text)?;
                config.circuits_per_peer = limit;
                config.limits.circuits_per_source = limit;
                config.limits.circuits_per_target = limit;
                Ok(())
            },
            show: |config| Count.show(&config.circuits_per_peer),
        },
    },
    // After the variable that sets both.
    Variable {
        name: name::CIRCUITS_PER_SOURCE,
        default: DefaultValue::Described("`RELAY_MAX_CIRCUITS_PER_PEER`"),
        doc: "Circuits that one peer has opened.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.circuits_per_source),
    },
    Variable {
        name: name::CIRCUITS_PER_TARGET,
        default: DefaultValue::Described("`RELAY_MAX_CIRCUITS_PER_PEER`"),
        doc: "Circuits that lead to one peer. When they are all in use, unused ones give way to a \
              new one.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.circuits_per_target),
    },
    Variable {
        name: "RELAY_UNUSED_CIRCUIT_TIMEOUT",
        default: DefaultValue::FromConfig,
        doc: "How long a circuit may stay open until its target has sent the first byte.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "unlimited" } => limits.unused_circuit_timeout),
    },
    Variable {
        name: "RELAY_IDLE_CIRCUIT_TIMEOUT",
        default: DefaultValue::FromConfig,
        doc: "How long a circuit may stay open without a byte in either direction, once its target has \
              sent one.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "unlimited" } => limits.idle_circuit_timeout),
    },
    Variable {
        name: "RELAY_PREFIX_SHARES",
        default: DefaultValue::Described(
            "1/8 for an IPv4 address and an IPv6 /64, 1/4 for an IPv4 /24 and an IPv6 /56, 1/2 for an IPv6 /48",
        ),
        doc: "Networks whose address prefixes may use another part of each resource when more than \
              three quarters of it are in use: mobile networks, proxies, networks of your own. See \
              `docs/limits.md`.",
        handling: TextHandling::Plain,
        field: field!(PrefixShares => limits.prefix_shares),
    },
    Variable {
        name: name::CIRCUIT_DURATION,
        default: DefaultValue::FromConfig,
        doc: "How long one circuit may last.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "unlimited" } => limits.circuit.duration),
    },
    Variable {
        name: "RELAY_MAX_CIRCUIT_BYTES",
        default: DefaultValue::FromConfig,
        doc: "What one circuit may carry, in each direction.",
        handling: TextHandling::Plain,
        field: field!(Size => limits.circuit.bytes),
    },
    Variable {
        name: "RELAY_MAX_MEMORY",
        default: DefaultValue::FromConfig,
        doc: "Memory that the relay may use; `auto` is the limit of its container, or else all that \
              the machine has. From 90 % on newcomers are refused; see `docs/limits.md`.",
        handling: TextHandling::Plain,
        field: field!(MemoryLimitFormat => memory),
    },
    Variable {
        name: "RELAY_RATE_CONNECTIONS_PER_IP",
        default: DefaultValue::FromConfig,
        doc: "Connections from one IP address (IPv6: from one /64): so many at once, and so many \
              more each second.",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => admission.rate_per_ip),
    },
    Variable {
        name: "RELAY_RATE_RESERVATIONS_PER_PEER",
        default: DefaultValue::FromConfig,
        doc: "Reservations that one peer asks for. To renew is always allowed.",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => limits.reservation_rate.per_peer),
    },
    Variable {
        name: "RELAY_RATE_RESERVATIONS_PER_IP",
        default: DefaultValue::FromConfig,
        doc: "Reservations that are asked for from one IP address (IPv6: from one /64). To renew \
              is always allowed.",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => limits.reservation_rate.per_ip),
    },
    Variable {
        name: "RELAY_RATE_CIRCUITS_PER_PEER",
        default: DefaultValue::FromConfig,
        doc: "Circuits that one peer asks for.",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => limits.circuit_rate.per_peer),
    },
    Variable {
        name: "RELAY_RATE_CIRCUITS_PER_IP",
        default: DefaultValue::FromConfig,
        doc: "Circuits that are asked for from one IP address (IPv6: from one /64).",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => limits.circuit_rate.per_ip),
    },
    Variable {
        name: name::TRUSTED_PROXIES,
        default: DefaultValue::Described("none"),
        doc: "The proxies and load balancers that say where a TCP or WebSocket connection really \
              comes from, in a PROXY protocol v2 header. Without it they are refused; from anybody \
              else it is not read.",
        handling: TextHandling::Plain,
        field: field!(NetworkList => admission.proxies),
    },
    Variable {
        name: name::BANDWIDTH,
        default: DefaultValue::FromConfig,
        doc: "Bytes a second through all circuits together, both directions counted; see `docs/bandwidth.md`.",
        handling: TextHandling::Plain,
        field: field!(RATE => limits.bandwidth.relay.rate),
    },
    Variable {
        name: name::BURST,
        default: DefaultValue::FromConfig,
        doc: "Bytes that may pass the relay at once, after fewer have passed than `RELAY_MAX_BANDWIDTH` allows.",
        handling: TextHandling::Plain,
        field: field!(BURST => limits.bandwidth.relay.burst),
    },
    Variable {
        name: name::BANDWIDTH_PER_PEER,
        default: DefaultValue::FromConfig,
        doc: "Bytes a second through the circuits of one peer, at either end, both directions counted.",
        handling: TextHandling::Plain,
        field: field!(RATE => limits.bandwidth.peer.rate),
    },
    Variable {
        name: name::BURST_PER_PEER,
        default: DefaultValue::FromConfig,
        doc: "The same of one peer, for `RELAY_MAX_BANDWIDTH_PER_PEER`.",
        handling: TextHandling::Plain,
        field: field!(BURST => limits.bandwidth.peer.burst),
    },
    Variable {
        name: name::BANDWIDTH_PER_CIRCUIT,
        default: DefaultValue::FromConfig,
        doc: "Bytes a second through one circuit, both directions counted.",
        handling: TextHandling::Plain,
        field: field!(RATE => limits.bandwidth.circuit.rate),
    },
    Variable {
        name: name::BURST_PER_CIRCUIT,
        default: DefaultValue::FromConfig,
        doc: "The same of one circuit, for `RELAY_MAX_BANDWIDTH_PER_CIRCUIT`.",
        handling: TextHandling::Plain,
        field: field!(BURST => limits.bandwidth.circuit.burst),
    },
    Variable {
        name: "RELAY_ACCESS_RESERVE_ALLOW",
        default: DefaultValue::Described("none"),
        doc: "Who may reserve, by peer id or by IP address: if set, nobody else.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Reserve, Effect::Allow) => access.reserve.allow),
    },
    Variable {
        name: "RELAY_ACCESS_RESERVE_DENY",
        default: DefaultValue::Described("none"),
        doc: "Who may not reserve, even if allowed.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Reserve, Effect::Deny) => access.reserve.deny),
    },
    Variable {
        name: "RELAY_ACCESS_CONNECT_ALLOW",
        default: DefaultValue::Described("none"),
        doc: "Who may open circuits, by peer id or by IP address: if set, nobody else.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Connect, Effect::Allow) => access.connect.allow),
    },
    Variable {
        name: "RELAY_ACCESS_CONNECT_DENY",
        default: DefaultValue::Described("none"),
        doc: "Who may not open circuits, even if allowed.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Connect, Effect::Deny) => access.connect.deny),
    },
    Variable {
        name: "RELAY_ACCESS_TARGET_ALLOW",
        default: DefaultValue::Described("none"),
        doc: "Peers that circuits may lead to: if set, to nobody else.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Target, Effect::Allow) => access.target.allow),
    },
    Variable {
        name: "RELAY_ACCESS_TARGET_DENY",
        default: DefaultValue::Described("none"),
        doc: "Peers that circuits may not lead to, even if allowed.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Target, Effect::Deny) => access.target.deny),
    },
    Variable {
        name: "RELAY_ACCESS_FILE",
        default: DefaultValue::Described("none"),
        doc: "A file with more such rules, read again when it changes; see `docs/access.md`.",
        handling: TextHandling::Plain,
        field: field!(FilePath => access.file),
    },
    Variable {
        name: name::ACCESS_URL,
        default: DefaultValue::Described("none"),
        doc: "An endpoint of yours that decides about what no rule refuses. It receives peer ids and IP addresses in full; see `docs/access.md`.",
        handling: TextHandling::Url,
        field: field!(EndpointUrl => access.url),
    },
    Variable {
        name: name::ACCESS_TOKEN,
        default: DefaultValue::Described("none"),
        doc: "Sent to the access endpoint as a bearer token.",
        handling: TextHandling::Secret,
        field: field!(BearerToken => access.endpoint.token),
    },
    Variable {
        name: name::ACCESS_CA_FILE,
        default: DefaultValue::Described("none"),
        doc: "A PEM file with the certificates that the access endpoint is believed by, instead of those of the system.",
        handling: TextHandling::Plain,
        field: field!(FilePath => access.endpoint.ca_file),
    },
    Variable {
        name: name::ACCESS_TIMEOUT,
        default: DefaultValue::FromConfig,
        doc: "How long a decision of the access endpoint may take. A request of a peer or an IP address with too many questions waits as long again at most.",
        handling: TextHandling::Plain,
        field: field!(ACCESS_TIMEOUT_RANGE => access.endpoint.timeout),
    },
    Variable {
        name: name::ACCESS_ON_ERROR,
        default: DefaultValue::FromConfig,
        doc: "Without a decision of the access endpoint in time: refuse the request, or grant it.",
        handling: TextHandling::Plain,
        field: field!(ON_ERROR => access.endpoint.on_error),
    },
    Variable {
        name: name::ACCESS_CACHE_TTL,
        default: DefaultValue::FromConfig,
        doc: "How long a decision of the access endpoint holds for the same question.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "off" } => access.endpoint.cache_ttl),
    },
    Variable {
        name: name::ACCESS_CACHE_CAPACITY,
        default: DefaultValue::FromConfig,
        doc: "Decisions that are remembered. Each takes up to 1 KiB.",
        handling: TextHandling::Plain,
        field: field!(CountUpTo(MAX_REMEMBERED) => access.endpoint.cache_capacity),
    },
    Variable {
        name: name::ACCESS_CONCURRENCY,
        default: DefaultValue::FromConfig,
        doc: "Decisions that the access endpoint is asked for at once. One peer has an eighth of them, one IP address (IPv6: one /64) a quarter or its share in `RELAY_PREFIX_SHARES`.",
        handling: TextHandling::Plain,
        field: field!(CountInRange(MAX_CONCURRENCY) => access.endpoint.concurrency),
    },
    Variable {
        name: "RELAY_IDLE_TIMEOUT",
        default: DefaultValue::FromConfig,
        doc: "How long a connection may hold neither a reservation nor a circuit.",
        handling: TextHandling::Plain,
        field: field!(AT_LEAST_5S => idle_timeout),
    },
    Variable {
        name: "RELAY_STATS_INTERVAL",
        default: DefaultValue::FromConfig,
        doc: "Time between two lines of statistics in the log.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "off" } => stats_interval),
    },
    Variable {
        name: "RELAY_LOG_FORMAT",
        default: DefaultValue::FromConfig,
        doc: "Shape of the log; `auto` is `text` in a terminal and `json` otherwise.",
        handling: TextHandling::Plain,
        field: field!(LOG_FORMATS => log_format),
    },
    Variable {
        name: "RELAY_PEER_IDS",
        default: DefaultValue::FromConfig,
        doc: "How peers are named in logs and telemetry: by a keyed hash, the same on all \
              relays that share a seed, or by their peer ids.",
        handling: TextHandling::Plain,
        field: field!(PEER_IDS => peer_ids),
    },
    Variable {
        name: "RELAY_ADMIN_ADDRESS",
        default: DefaultValue::FromConfig,
        doc: "Where the operator's HTTP endpoints listen.",
        handling: TextHandling::EmptyIsValue,
        field: field!(OptionalSocketAddress => admin_address),
    },
    Variable {
        name: "RELAY_PEER_STATS_CAPACITY",
        default: DefaultValue::FromConfig,
        doc: "Peers of which `/peers` knows how much they moved; when there are more, those that \
              moved least are forgotten. Each takes up to 3 KiB.",
        handling: TextHandling::Plain,
        field: field!(CountUpTo(MAX_CAPACITY) => peer_stats.capacity),
    },
    Variable {
        name: "RELAY_PEER_STATS_WINDOW",
        default: DefaultValue::FromConfig,
        doc: "The last while of which `/peers` tells apart from the total.",
        handling: TextHandling::Plain,
        field: field!(AT_LEAST_1S => peer_stats.window),
    },
    Variable {
        name: "RELAY_DRAIN_DELAY",
        default: DefaultValue::FromConfig,
        doc: "After the signal to end: how long everything still works, so that DNS and load \
              balancers can forget this relay first.",
        handling: TextHandling::Plain,
        field: field!(ANY_DURATION => drain.delay),
    },
    Variable {
        name: name::DRAIN_WINDOW,
        default: DefaultValue::FromConfig,
        doc: "After the delay: the time over which peers without a circuit are sent away, one by \
              one. At most `RELAY_DRAIN_TIMEOUT`.",
        handling: TextHandling::Plain,
        field: field!(ANY_DURATION => drain.window),
    },
    Variable {
        name: name::DRAIN_TIMEOUT,
        default: DefaultValue::FromConfig,
        doc: "After the delay: how long open circuits may take to end by themselves. No circuit \
              that is open at the signal is cut when this is longer than \
              `RELAY_MAX_CIRCUIT_DURATION`.",
        handling: TextHandling::Plain,
        field: field!(ANY_DURATION => drain.timeout),
    },
    Variable {
        name: "RELAY_FLEET_INSTANCES",
        default: DefaultValue::Described("none"),
        doc: "`dns`, `dnsaddr`: the names of all relays of the fleet. With the seed they give \
              the peer ids that belong to it.",
        handling: TextHandling::Plain,
        field: field!(InstanceNames => fleet),
    },
    Variable {
        name: "RELAY_DNS_ZONE",
        default: DefaultValue::Described("none"),
        doc: "`dns`, `dnsaddr`: the zone that holds the fleet's records.",
        handling: TextHandling::Plain,
        field: field!(ZoneName => dns.zone),
    },
    Variable {
        name: "RELAY_DNS_RELAYS",
        default: DefaultValue::Described("none"),
        doc: "`dns`: where the relays' operator endpoints are. A name stands for all the \
              addresses that it resolves to.",
        handling: TextHandling::Plain,
        field: field!(RelayHosts => dns.relays),
    },
    Variable {
        name: "RELAY_DNS_LISTEN",
        default: DefaultValue::FromConfig,
        doc: "`dns`: where queries are answered, over UDP and TCP.",
        handling: TextHandling::Plain,
        field: field!(SocketAddresses => dns.listen),
    },
    Variable {
        name: name::DNS_SERVERS,
        default: DefaultValue::Described("`ns.` and the zone"),
        doc: "`dns`: the name servers that the zone is delegated to.",
        handling: TextHandling::Plain,
        field: field!(NameServers => dns.servers),
    },
    Variable {
        name: "RELAY_DNS_TTL",
        default: DefaultValue::FromConfig,
        doc: "`dns`: how long answers may be cached. With a `RELAY_DRAIN_DELAY` two seconds \
              longer, a relay is forgotten before it refuses anybody.",
        handling: TextHandling::Plain,
        field: field!(DnsTtl => dns.ttl),
    },
    Variable {
        name: "RELAY_DNS_RATE_LIMIT",
        default: DefaultValue::FromConfig,
        doc: "`dns`: answers a second over UDP to one /24 of IPv4 or /56 of IPv6. Beyond it, \
              every second query is told to come back over TCP.",
        handling: TextHandling::Plain,
        field: field!(Count => dns.rate),
    },
];

impl Variable {
    /// Whether its text must never be shown.
    pub(super) fn is_secret(&self) -> bool {
        self.handling == TextHandling::Secret
    }

    /// The name of the variable that holds the path of a file with this one's text.
    pub(super) fn file_name(&self) -> Option<String> {
        self.is_secret()
            .then(|| format!("{}{FILE_SUFFIX}", self.name))
    }

    /// An error about `name`, which is this variable's or that of its file: `what` (the value, or
    /// what stands for it), `problem`, and what is allowed instead.
    pub(super) fn refuse(&self, name: &str, what: &str, problem: &str) -> VariableError {
        VariableError::new(
            name,
            format!("{what} {problem}; allowed: {}", (self.field.allowed)()),
        )
    }
}
