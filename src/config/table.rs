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
    AutonatVersions, Choice, Count, CountUpTo, DurationOrZero, InstanceName, MinDuration,
    OptionalSocketAddress, PrivateKey, Seed, Size, SizeOrZero, SwarmKeyFile, ValueFormat,
};
use crate::access::{Effect, MAX_CACHED, MAX_CONCURRENCY, OnError, Scope};
use crate::peer_stats::MAX_CAPACITY;
use crate::pseudonym::PeerIds;
use crate::telemetry::log::LogFormat;

/// The prefix of all variables.
pub(super) const PREFIX: &str = "RELAY_";

/// The suffix of variables with the path of a secret file.
pub(super) const FILE_SUFFIX: &str = "_FILE";

/// The names that are used outside of this table.
pub(super) mod name {
    pub(in crate::config) const INSTANCE: &str = "RELAY_INSTANCE";
    pub(in crate::config) const SEED: &str = "RELAY_IDENTITY_SEED";
    pub(in crate::config) const KEY: &str = "RELAY_IDENTITY_KEY";
    pub(in crate::config) const LISTEN_ADDRESSES: &str = "RELAY_LISTEN_ADDRESSES";
    pub(in crate::config) const EXTERNAL_ADDRESSES: &str = "RELAY_EXTERNAL_ADDRESSES";
    pub(in crate::config) const SWARM_KEY: &str = "RELAY_SWARM_KEY";
    pub(in crate::config) const RESERVATIONS: &str = "RELAY_MAX_RESERVATIONS";
    pub(in crate::config) const RESERVATIONS_PER_IP: &str = "RELAY_MAX_RESERVATIONS_PER_IP";
    pub(in crate::config) const RESERVATION_TTL: &str = "RELAY_RESERVATION_TTL";
    pub(in crate::config) const CIRCUITS: &str = "RELAY_MAX_CIRCUITS";
    pub(in crate::config) const CIRCUITS_PER_PEER: &str = "RELAY_MAX_CIRCUITS_PER_PEER";
    pub(in crate::config) const CIRCUITS_PER_SOURCE: &str = "RELAY_MAX_CIRCUITS_PER_SOURCE";
    pub(in crate::config) const CIRCUITS_PER_TARGET: &str = "RELAY_MAX_CIRCUITS_PER_TARGET";
    pub(in crate::config) const CIRCUIT_BYTES: &str = "RELAY_MAX_CIRCUIT_BYTES";
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

/// The sections of the reference: the title, and the first variable. A section ends where the next one
/// begins.
pub(super) const SECTIONS: [(&str, &str); 10] = [
    ("Addresses", "RELAY_LISTEN_ADDRESSES"),
    ("Identity", name::INSTANCE),
    ("Reservations", name::RESERVATIONS),
    ("Circuits", name::CIRCUITS),
    ("Resources and rates", "RELAY_PREFIX_SHARES"),
    ("Bandwidth", name::BANDWIDTH),
    ("Access control", "RELAY_ACCESS_RESERVE_ALLOW"),
    ("Log and admin API", "RELAY_STATS_INTERVAL"),
    ("Drain", "RELAY_DRAIN_DELAY"),
    ("DNS", "RELAY_FLEET_INSTANCES"),
];

/// One environment variable.
pub(super) struct Variable {
    /// The full name.
    pub(super) name: &'static str,
    /// The value while the variable is not set.
    pub(super) default: DefaultValue,
    /// Its meaning, in one or two sentences.
    pub(super) doc: &'static str,
    /// How the text is prepared for parsing.
    pub(super) handling: TextHandling,
    /// The format, and the field of the configuration.
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

/// How the text of a variable is prepared for parsing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TextHandling {
    /// Trimmed; empty means unset.
    Plain,
    /// Trimmed; empty is a value.
    EmptyIsValue,
    /// Trimmed, with placeholders replaced; empty means unset.
    Template,
    /// Trimmed; empty means unset. Errors mask the value, which may contain a password.
    Url,
    /// Only trailing line breaks are removed; always masked; may come from a file.
    Secret,
}

/// A field of [`Config`] in text form.
pub(super) struct Field {
    pub(super) allowed: fn() -> String,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

/// `field!(Format => path.of.field)`: a field with the [`ValueFormat`] `Format`.
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
    what: "a size per second",
    zero: "unlimited",
};
const BURST: SizeOrZero = SizeOrZero {
    what: "a size",
    zero: "the bytes of one second, at least 64KiB",
};
const ON_ERROR: Choice<OnError> = Choice(&OnError::ALL);
const LOG_FORMATS: Choice<LogFormat> = Choice(&LogFormat::ALL);
const PEER_IDS: Choice<PeerIds> = Choice(&PeerIds::ALL);

/// Every variable, in the order of the reference.
pub(super) static VARIABLES: &[Variable] = &[
    Variable {
        name: name::LISTEN_ADDRESSES,
        default: DefaultValue::FromConfig,
        doc: "Addresses on which the relay accepts connections: TCP, QUIC and WebSocket.",
        handling: TextHandling::Plain,
        field: field!(ListenAddresses => listen_addresses),
    },
    Variable {
        name: name::EXTERNAL_ADDRESSES,
        default: DefaultValue::Described("the addresses of the machine's interfaces"),
        doc: "Addresses that the relay announces to clients, without the peer id. \
              `{instance}` is replaced by `RELAY_INSTANCE`, `{index}` by its trailing number \
              (`relay-2`: `2`).",
        handling: TextHandling::Template,
        field: field!(ExternalAddresses => external_addresses),
    },
    Variable {
        name: name::INSTANCE,
        default: DefaultValue::Described("the machine's host name"),
        doc: "Name of this relay within its fleet. The peer id is derived from it and the \
              seed, so it must be unique and stable over restarts.",
        handling: TextHandling::Plain,
        field: field!(InstanceName => identity.instance),
    },
    Variable {
        name: name::SEED,
        default: DefaultValue::Described("none"),
        doc: "Shared secret of the fleet, the same on all its relays: peer ids and \
              pseudonyms are derived from it. Without a seed and a key, the peer id changes \
              at every start.",
        handling: TextHandling::Secret,
        field: field!(Seed => identity.seed),
    },
    Variable {
        name: name::KEY,
        default: DefaultValue::Described("none"),
        doc: "Private key of this relay, instead of a seed.",
        handling: TextHandling::Secret,
        field: field!(PrivateKey => identity.key),
    },
    Variable {
        name: name::SWARM_KEY,
        default: DefaultValue::Described("none"),
        doc: "Key of a private network: only peers with the same key can connect. There is no \
              QUIC in private networks.",
        handling: TextHandling::Secret,
        field: field!(SwarmKeyFile => swarm_key),
    },
    Variable {
        name: name::RESERVATIONS,
        default: DefaultValue::FromConfig,
        doc: "Maximum number of peers with a reservation.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.reservations),
    },
    Variable {
        name: "RELAY_MAX_RESERVATIONS_PER_PEER",
        default: DefaultValue::FromConfig,
        doc: "Maximum number of connections of one peer that hold its reservation.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.reservations_per_peer),
    },
    Variable {
        name: name::RESERVATIONS_PER_IP,
        default: DefaultValue::FromConfig,
        doc: "Maximum number of reservations from one IP address (IPv6: one /64).",
        handling: TextHandling::Plain,
        field: field!(Count => limits.reservations_per_ip),
    },
    Variable {
        name: name::RESERVATION_TTL,
        default: DefaultValue::FromConfig,
        doc: "Lifetime of a reservation unless it is renewed. Clients renew minutes before \
              it expires, so values below 3m cause gaps.",
        handling: TextHandling::Plain,
        field: field!(AT_LEAST_30S => limits.reservation_ttl),
    },
    Variable {
        name: name::CIRCUITS,
        default: DefaultValue::FromConfig,
        doc: "Maximum number of open circuits.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.circuits),
    },
    Variable {
        name: name::CIRCUITS_PER_PEER,
        default: DefaultValue::FromConfig,
        doc: "Maximum number of circuits of one peer as source, and as target. Sets \
              `RELAY_MAX_CIRCUITS_PER_SOURCE` and `RELAY_MAX_CIRCUITS_PER_TARGET`, unless \
              those are set.",
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
        doc: "Maximum number of circuits that one peer has opened.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.circuits_per_source),
    },
    Variable {
        name: name::CIRCUITS_PER_TARGET,
        default: DefaultValue::Described("`RELAY_MAX_CIRCUITS_PER_PEER`"),
        doc: "Maximum number of circuits to one peer. At the limit, a new circuit replaces \
              an unused one.",
        handling: TextHandling::Plain,
        field: field!(Count => limits.circuits_per_target),
    },
    Variable {
        name: "RELAY_UNUSED_CIRCUIT_TIMEOUT",
        default: DefaultValue::FromConfig,
        doc: "How long a circuit may stay open until its target sends the first byte.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "unlimited" } => limits.unused_circuit_timeout),
    },
    Variable {
        name: "RELAY_IDLE_CIRCUIT_TIMEOUT",
        default: DefaultValue::FromConfig,
        doc: "How long a circuit may stay open without a byte in either direction, after the \
              first byte of its target.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "unlimited" } => limits.idle_circuit_timeout),
    },
    Variable {
        name: name::CIRCUIT_DURATION,
        default: DefaultValue::FromConfig,
        doc: "Maximum duration of a circuit.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "unlimited" } => limits.circuit.duration),
    },
    Variable {
        name: name::CIRCUIT_BYTES,
        default: DefaultValue::FromConfig,
        doc: "Maximum number of bytes that a circuit relays in each direction.",
        handling: TextHandling::Plain,
        field: field!(Size => limits.circuit.bytes),
    },
    Variable {
        name: "RELAY_PREFIX_SHARES",
        default: DefaultValue::Described(
            "1/8 for an IPv4 address and an IPv6 /64, 1/4 for an IPv4 /24 and an IPv6 /56, 1/2 for an IPv6 /48",
        ),
        doc: "Networks whose address prefixes have another share of each resource while at \
              least three quarters of it are in use, such as mobile networks, proxies and \
              your own networks. See `docs/limits.md`.",
        handling: TextHandling::Plain,
        field: field!(PrefixShares => limits.prefix_shares),
    },
    Variable {
        name: "RELAY_MAX_MEMORY",
        default: DefaultValue::FromConfig,
        doc: "Memory limit of the relay; `auto` is the limit of its container, or else the \
              machine's memory. Above 90 %, new connections are rejected; see \
              `docs/limits.md`.",
        handling: TextHandling::Plain,
        field: field!(MemoryLimitFormat => memory),
    },
    Variable {
        name: "RELAY_IDLE_TIMEOUT",
        default: DefaultValue::FromConfig,
        doc: "How long a connection may have neither a reservation nor a circuit. Connections of peers \
              that use identify or AutoNAT are kept while less than three quarters of all connections \
              are in use and memory is not under pressure.",
        handling: TextHandling::Plain,
        field: field!(AT_LEAST_5S => idle_timeout),
    },
    Variable {
        name: "RELAY_RATE_CONNECTIONS_PER_IP",
        default: DefaultValue::FromConfig,
        doc: "Rate of connections from one IP address (IPv6: one /64): burst and sustained \
              rate.",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => admission.rate_per_ip),
    },
    Variable {
        name: "RELAY_RATE_RESERVATIONS_PER_PEER",
        default: DefaultValue::FromConfig,
        doc: "Rate of reservation requests from one peer. Renewals are exempt.",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => limits.reservation_rate.per_peer),
    },
    Variable {
        name: "RELAY_RATE_RESERVATIONS_PER_IP",
        default: DefaultValue::FromConfig,
        doc: "Rate of reservation requests from one IP address (IPv6: one /64). Renewals are \
              exempt.",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => limits.reservation_rate.per_ip),
    },
    Variable {
        name: "RELAY_RATE_CIRCUITS_PER_PEER",
        default: DefaultValue::FromConfig,
        doc: "Rate of circuit requests from one peer.",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => limits.circuit_rate.per_peer),
    },
    Variable {
        name: "RELAY_RATE_CIRCUITS_PER_IP",
        default: DefaultValue::FromConfig,
        doc: "Rate of circuit requests from one IP address (IPv6: one /64).",
        handling: TextHandling::Plain,
        field: field!(BurstAndRate => limits.circuit_rate.per_ip),
    },
    Variable {
        name: name::TRUSTED_PROXIES,
        default: DefaultValue::Described("none"),
        doc: "Proxies and load balancers that send the client's address of each TCP or \
              WebSocket connection in a PROXY protocol v2 header. Their connections are \
              rejected without the header; from other addresses it is not read.",
        handling: TextHandling::Plain,
        field: field!(NetworkList => admission.proxies),
    },
    Variable {
        name: name::BANDWIDTH,
        default: DefaultValue::FromConfig,
        doc: "Bytes per second through all circuits together, in both directions; see \
              `docs/bandwidth.md`.",
        handling: TextHandling::Plain,
        field: field!(RATE => limits.bandwidth.relay.rate),
    },
    Variable {
        name: name::BURST,
        default: DefaultValue::FromConfig,
        doc: "Burst for `RELAY_MAX_BANDWIDTH`: bytes that may pass at once after a period \
              below the limit.",
        handling: TextHandling::Plain,
        field: field!(BURST => limits.bandwidth.relay.burst),
    },
    Variable {
        name: name::BANDWIDTH_PER_PEER,
        default: DefaultValue::FromConfig,
        doc: "Bytes per second through the circuits of one peer, as source and target, in \
              both directions.",
        handling: TextHandling::Plain,
        field: field!(RATE => limits.bandwidth.peer.rate),
    },
    Variable {
        name: name::BURST_PER_PEER,
        default: DefaultValue::FromConfig,
        doc: "Burst for `RELAY_MAX_BANDWIDTH_PER_PEER`.",
        handling: TextHandling::Plain,
        field: field!(BURST => limits.bandwidth.peer.burst),
    },
    Variable {
        name: name::BANDWIDTH_PER_CIRCUIT,
        default: DefaultValue::FromConfig,
        doc: "Bytes per second through one circuit, in both directions.",
        handling: TextHandling::Plain,
        field: field!(RATE => limits.bandwidth.circuit.rate),
    },
    Variable {
        name: name::BURST_PER_CIRCUIT,
        default: DefaultValue::FromConfig,
        doc: "Burst for `RELAY_MAX_BANDWIDTH_PER_CIRCUIT`.",
        handling: TextHandling::Plain,
        field: field!(BURST => limits.bandwidth.circuit.burst),
    },
    Variable {
        name: "RELAY_ACCESS_RESERVE_ALLOW",
        default: DefaultValue::Described("none"),
        doc: "Peers and networks that may reserve; if set, all others are denied.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Reserve, Effect::Allow) => access.reserve.allow),
    },
    Variable {
        name: "RELAY_ACCESS_RESERVE_DENY",
        default: DefaultValue::Described("none"),
        doc: "Peers and networks that may not reserve, even if allowed.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Reserve, Effect::Deny) => access.reserve.deny),
    },
    Variable {
        name: "RELAY_ACCESS_CONNECT_ALLOW",
        default: DefaultValue::Described("none"),
        doc: "Peers and networks that may open circuits; if set, all others are denied.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Connect, Effect::Allow) => access.connect.allow),
    },
    Variable {
        name: "RELAY_ACCESS_CONNECT_DENY",
        default: DefaultValue::Described("none"),
        doc: "Peers and networks that may not open circuits, even if allowed.",
        handling: TextHandling::Plain,
        field: field!(AccessEntries(Scope::Connect, Effect::Deny) => access.connect.deny),
    },
    Variable {
        name: "RELAY_ACCESS_TARGET_ALLOW",
        default: DefaultValue::Described("none"),
        doc: "Peers that circuits may lead to; if set, all others are denied.",
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
        doc: "File with more access rules, reloaded when it changes; see `docs/access.md`.",
        handling: TextHandling::Plain,
        field: field!(FilePath => access.file),
    },
    Variable {
        name: name::ACCESS_URL,
        default: DefaultValue::Described("none"),
        doc: "Your HTTP endpoint that decides on requests that no rule denies. It receives \
              full peer ids and IP addresses; see `docs/access.md`.",
        handling: TextHandling::Url,
        field: field!(EndpointUrl => access.url),
    },
    Variable {
        name: name::ACCESS_TOKEN,
        default: DefaultValue::Described("none"),
        doc: "Bearer token for the access endpoint.",
        handling: TextHandling::Secret,
        field: field!(BearerToken => access.endpoint.token),
    },
    Variable {
        name: name::ACCESS_CA_FILE,
        default: DefaultValue::Described("none"),
        doc: "PEM file of CA certificates to trust for the access endpoint, instead of the \
              system store.",
        handling: TextHandling::Plain,
        field: field!(FilePath => access.endpoint.ca_file),
    },
    Variable {
        name: name::ACCESS_TIMEOUT,
        default: DefaultValue::FromConfig,
        doc: "Deadline of a decision of the access endpoint. A request waits up to as long \
              again while its peer or IP address has too many pending decisions.",
        handling: TextHandling::Plain,
        field: field!(ACCESS_TIMEOUT_RANGE => access.endpoint.timeout),
    },
    Variable {
        name: name::ACCESS_ON_ERROR,
        default: DefaultValue::FromConfig,
        doc: "Policy without a decision in time: deny the request, or grant it.",
        handling: TextHandling::Plain,
        field: field!(ON_ERROR => access.endpoint.on_error),
    },
    Variable {
        name: name::ACCESS_CACHE_TTL,
        default: DefaultValue::FromConfig,
        doc: "How long a decision of the access endpoint is cached.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "off" } => access.endpoint.cache_ttl),
    },
    Variable {
        name: name::ACCESS_CACHE_CAPACITY,
        default: DefaultValue::FromConfig,
        doc: "Maximum number of cached decisions, up to 1 KiB each.",
        handling: TextHandling::Plain,
        field: field!(CountUpTo(MAX_CACHED) => access.endpoint.cache_capacity),
    },
    Variable {
        name: name::ACCESS_CONCURRENCY,
        default: DefaultValue::FromConfig,
        doc: "Maximum number of concurrent requests to the access endpoint. One peer may use \
              an eighth of them, one IP address (IPv6: one /64) a quarter or its share in \
              `RELAY_PREFIX_SHARES`.",
        handling: TextHandling::Plain,
        field: field!(CountInRange(MAX_CONCURRENCY) => access.endpoint.concurrency),
    },
    Variable {
        name: "RELAY_AUTONAT",
        default: DefaultValue::FromConfig,
        doc: "Versions of AutoNAT that are served, so that clients learn whether they are reachable. \
              Without version 1, clients of go-libp2p reserve only if they are configured to be private.",
        handling: TextHandling::EmptyIsValue,
        field: field!(AutonatVersions => autonat),
    },
    Variable {
        name: "RELAY_STATS_INTERVAL",
        default: DefaultValue::FromConfig,
        doc: "Interval between two statistics lines in the log.",
        handling: TextHandling::Plain,
        field: field!(DurationOrZero { zero: "off" } => stats_interval),
    },
    Variable {
        name: "RELAY_LOG_FORMAT",
        default: DefaultValue::FromConfig,
        doc: "Format of the log; `auto` is `text` in a terminal and `json` otherwise.",
        handling: TextHandling::Plain,
        field: field!(LOG_FORMATS => log_format),
    },
    Variable {
        name: "RELAY_PEER_IDS",
        default: DefaultValue::FromConfig,
        doc: "How peers are named in logs and telemetry: by a keyed hash, the same on all \
              relays that share a seed, or by their full peer ids.",
        handling: TextHandling::Plain,
        field: field!(PEER_IDS => peer_ids),
    },
    Variable {
        name: "RELAY_ADMIN_ADDRESS",
        default: DefaultValue::FromConfig,
        doc: "Socket of the admin API over HTTP.",
        handling: TextHandling::EmptyIsValue,
        field: field!(OptionalSocketAddress => admin_address),
    },
    Variable {
        name: "RELAY_PEER_STATS_CAPACITY",
        default: DefaultValue::FromConfig,
        doc: "Maximum number of peers that `/peers` tracks; beyond it, the peers with the \
              least traffic are dropped. Each takes up to 3 KiB.",
        handling: TextHandling::Plain,
        field: field!(CountUpTo(MAX_CAPACITY) => peer_stats.capacity),
    },
    Variable {
        name: "RELAY_PEER_STATS_WINDOW",
        default: DefaultValue::FromConfig,
        doc: "Length of the recent window that `/peers` reports in addition to totals.",
        handling: TextHandling::Plain,
        field: field!(AT_LEAST_1S => peer_stats.window),
    },
    Variable {
        name: "RELAY_DRAIN_DELAY",
        default: DefaultValue::FromConfig,
        doc: "After the stop signal: how long everything keeps working, so that DNS and load \
              balancers can drop this relay first.",
        handling: TextHandling::Plain,
        field: field!(ANY_DURATION => drain.delay),
    },
    Variable {
        name: name::DRAIN_WINDOW,
        default: DefaultValue::FromConfig,
        doc: "After the delay: period over which peers without a circuit are disconnected \
              one by one. At most `RELAY_DRAIN_TIMEOUT`.",
        handling: TextHandling::Plain,
        field: field!(ANY_DURATION => drain.window),
    },
    Variable {
        name: name::DRAIN_TIMEOUT,
        default: DefaultValue::Described(
            "1m longer than `RELAY_MAX_CIRCUIT_DURATION`; `1h1m` if that is unlimited",
        ),
        doc: "After the delay: how long open circuits may take to end. If it is longer than \
              `RELAY_MAX_CIRCUIT_DURATION`, no circuit within that limit is cut. New circuits \
              get a limit that ends before; at less than 10 s they are refused.",
        handling: TextHandling::Plain,
        field: field!(ANY_DURATION => drain.timeout),
    },
    Variable {
        name: "RELAY_FLEET_INSTANCES",
        default: DefaultValue::Described("none"),
        doc: "`dns`, `dnsaddr`: names of all relays of the fleet. The fleet's peer ids are \
              derived from them and the seed.",
        handling: TextHandling::Plain,
        field: field!(InstanceNames => fleet),
    },
    Variable {
        name: "RELAY_DNS_ZONE",
        default: DefaultValue::Described("none"),
        doc: "`dns`, `dnsaddr`: zone of the fleet's records.",
        handling: TextHandling::Plain,
        field: field!(ZoneName => dns.zone),
    },
    Variable {
        name: "RELAY_DNS_RELAYS",
        default: DefaultValue::Described("none"),
        doc: "`dns`: admin API endpoints of the relays. A name stands for all addresses that \
              it resolves to.",
        handling: TextHandling::Plain,
        field: field!(RelayHosts => dns.relays),
    },
    Variable {
        name: "RELAY_DNS_LISTEN",
        default: DefaultValue::FromConfig,
        doc: "`dns`: sockets on which queries are answered, over UDP and TCP.",
        handling: TextHandling::Plain,
        field: field!(SocketAddresses => dns.listen),
    },
    Variable {
        name: name::DNS_SERVERS,
        default: DefaultValue::Described("`ns.` and the zone"),
        doc: "`dns`: name servers that the zone is delegated to.",
        handling: TextHandling::Plain,
        field: field!(NameServers => dns.servers),
    },
    Variable {
        name: "RELAY_DNS_TTL",
        default: DefaultValue::FromConfig,
        doc: "`dns`: TTL of the records. If `RELAY_DRAIN_DELAY` is two seconds longer, \
              clients no longer resolve a relay when it begins to refuse requests.",
        handling: TextHandling::Plain,
        field: field!(DnsTtl => dns.ttl),
    },
    Variable {
        name: "RELAY_DNS_RATE_LIMIT",
        default: DefaultValue::FromConfig,
        doc: "`dns`: responses per second over UDP to one IPv4 /24 or IPv6 /56. Beyond it, \
              every second query gets a truncated response, so that the client retries over \
              TCP.",
        handling: TextHandling::Plain,
        field: field!(Count => dns.rate),
    },
];

impl Variable {
    /// Whether its value is masked.
    pub(super) fn is_secret(&self) -> bool {
        self.handling == TextHandling::Secret
    }

    /// The name of the variable with the path of a file that contains the value.
    pub(super) fn file_name(&self) -> Option<String> {
        self.is_secret()
            .then(|| format!("{}{FILE_SUFFIX}", self.name))
    }

    /// An error about `name`, which is the name of this variable or of its file: `what` (the value, or
    /// a description of it), `problem`, and the allowed values.
    pub(super) fn refuse(&self, name: &str, what: &str, problem: &str) -> VariableError {
        VariableError::new(
            name,
            format!("{what} {problem}; allowed: {}", (self.field.allowed)()),
        )
    }
}
