//! The table of all variables: name, default, meaning, and the field that each one fills.

use std::time::Duration;

use super::access::{CountFromOne, EndpointUrl, Entries, FilePath, SpanWithin, Token};
use super::address::{External, Listen};
use super::dns::{Instances, NameServers, RelayHosts, Sockets, Ttl, ZoneName};
use super::error::VariableError;
use super::kind::{
    Choice, Count, CountUpTo, Instance, Kind, PrivateKey, Seed, Size, SizeOrZero, Socket, Span,
    SpanOrZero,
};
use super::rates::{BurstAndRate, Memory, NetworkShares, Networks};
use super::{Config, LogFormat, OnError, PeerIds};
use crate::access::{Effect, MAX_CONCURRENCY, MAX_REMEMBERED, Scope};
use crate::peers::MAX_CAPACITY;

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
    pub(in crate::config) const PROXIES: &str = "RELAY_PROXY_PROTOCOL_FROM";
    pub(in crate::config) const BANDWIDTH: &str = "RELAY_MAX_BANDWIDTH";
    pub(in crate::config) const BANDWIDTH_PER_PEER: &str = "RELAY_MAX_BANDWIDTH_PER_PEER";
    pub(in crate::config) const BANDWIDTH_PER_CIRCUIT: &str = "RELAY_MAX_BANDWIDTH_PER_CIRCUIT";
    pub(in crate::config) const BURST: &str = "RELAY_MAX_BURST";
    pub(in crate::config) const BURST_PER_PEER: &str = "RELAY_MAX_BURST_PER_PEER";
    pub(in crate::config) const BURST_PER_CIRCUIT: &str = "RELAY_MAX_BURST_PER_CIRCUIT";
    pub(in crate::config) const ACCESS_URL: &str = "RELAY_ACCESS_URL";
    pub(in crate::config) const ACCESS_TOKEN: &str = "RELAY_ACCESS_TOKEN";
    pub(in crate::config) const ACCESS_CERTIFICATE: &str = "RELAY_ACCESS_CERTIFICATE";
    pub(in crate::config) const ACCESS_TIMEOUT: &str = "RELAY_ACCESS_TIMEOUT";
    pub(in crate::config) const ACCESS_ON_ERROR: &str = "RELAY_ACCESS_ON_ERROR";
    pub(in crate::config) const ACCESS_CACHE_TTL: &str = "RELAY_ACCESS_CACHE_TTL";
    pub(in crate::config) const ACCESS_CACHE_CAPACITY: &str = "RELAY_ACCESS_CACHE_CAPACITY";
    pub(in crate::config) const ACCESS_CONCURRENCY: &str = "RELAY_ACCESS_CONCURRENCY";
    pub(in crate::config) const DRAIN_WINDOW: &str = "RELAY_DRAIN_WINDOW";
    pub(in crate::config) const DRAIN_TIMEOUT: &str = "RELAY_DRAIN_TIMEOUT";
    pub(in crate::config) const DNS_SERVERS: &str = "RELAY_DNS_NS";
}

/// One environment variable.
pub(super) struct Variable {
    /// The full name.
    pub(super) name: &'static str,
    /// What holds when the variable is not set.
    pub(super) default: Fallback,
    /// What it means, in one sentence or two.
    pub(super) doc: &'static str,
    /// How its text is treated before it is parsed.
    pub(super) handling: Handling,
    /// What may be written, and where it goes.
    pub(super) field: Field,
}

/// What holds when a variable is not set.
#[derive(Clone, Copy)]
pub(super) enum Fallback {
    /// The same as this text.
    Text(&'static str),
    /// Something that no text in this table can say.
    Words(&'static str),
}

/// How a text is treated before it is parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    /// Trimmed; empty counts as not set.
    Plain,
    /// Trimmed; empty means something.
    EmptyCounts,
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

/// `field!(Kind => path.of.field)`: a field whose texts are of that [`Kind`].
macro_rules! field {
    ($kind:expr => $($field:ident).+) => {
        Field {
            allowed: || $kind.allowed(),
            set: |config, text| {
                config.$($field).+ = $kind.parse(text)?;
                Ok(())
            },
            show: |config| $kind.show(&config.$($field).+),
        }
    };
}

const SECONDS_0: Span = Span {
    least: Duration::ZERO,
};
const SECONDS_1: Span = Span {
    least: Duration::from_secs(1),
};
const SECONDS_5: Span = Span {
    least: Duration::from_secs(5),
};
const SECONDS_30: Span = Span {
    least: Duration::from_secs(30),
};
const DECISION: SpanWithin = SpanWithin {
    least: Duration::from_millis(10),
    most: Duration::from_secs(10),
};
const RATE: SizeOrZero = SizeOrZero {
    what: "a size for each second",
    zero: "unlimited",
};
const BURST: SizeOrZero = SizeOrZero {
    what: "a size",
    zero: "a second's worth, and 64KiB at least",
};
const ON_ERROR: Choice<OnError> = Choice(&[
    ("fail-closed", OnError::FailClosed),
    ("fail-open", OnError::FailOpen),
]);
const LOG_FORMATS: Choice<LogFormat> = Choice(&[
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
]);
const PEER_IDS: Choice<PeerIds> =
    Choice(&[("pseudonym", PeerIds::Pseudonym), ("full", PeerIds::Full)]);

/// Every variable, in the order in which people meet them.
pub(super) static VARIABLES: &[Variable] = &[
    Variable {
        name: "RELAY_LISTEN_ADDRESSES",
        default: Fallback::Text(
            "/ip4/0.0.0.0/tcp/9000,/ip4/0.0.0.0/udp/9000/quic-v1,\
             /ip6/::/tcp/9000,/ip6/::/udp/9000/quic-v1",
        ),
        doc: "Where the relay accepts connections: TCP, QUIC and WebSocket.",
        handling: Handling::Plain,
        field: field!(Listen => listen_addresses),
    },
    Variable {
        name: "RELAY_EXTERNAL_ADDRESSES",
        default: Fallback::Words("the addresses of the machine's own interfaces"),
        doc: "The addresses that clients are told to dial, without the peer id. `{instance}` \
              stands for `RELAY_INSTANCE`, `{index}` for the number at its end (`relay-2`: `2`).",
        handling: Handling::Template,
        field: field!(External => external_addresses),
    },
    Variable {
        name: name::INSTANCE,
        default: Fallback::Words("the machine's host name"),
        doc: "The name of this relay within its fleet. Together with the seed it gives the peer \
              id, so it must be unique and stay the same over restarts.",
        handling: Handling::Plain,
        field: field!(Instance => identity.instance),
    },
    Variable {
        name: name::SEED,
        default: Fallback::Words("none"),
        doc: "The secret of the fleet, the same for all its relays: peer ids and pseudonyms are \
              derived from it. With neither seed nor key the peer id changes at every start.",
        handling: Handling::Secret,
        field: field!(Seed => identity.seed),
    },
    Variable {
        name: name::KEY,
        default: Fallback::Words("none"),
        doc: "The private key of this relay, instead of a seed.",
        handling: Handling::Secret,
        field: field!(PrivateKey => identity.key),
    },
    Variable {
        name: name::RESERVATIONS,
        default: Fallback::Text("1024"),
        doc: "Peers that hold a reservation at once.",
        handling: Handling::Plain,
        field: field!(Count => limits.reservations),
    },
    Variable {
        name: "RELAY_MAX_RESERVATIONS_PER_PEER",
        default: Fallback::Text("3"),
        doc: "Connections of one peer that may hold its reservation.",
        handling: Handling::Plain,
        field: field!(Count => limits.reservations_per_peer),
    },
    Variable {
        name: name::RESERVATIONS_PER_IP,
        default: Fallback::Text("64"),
        doc: "Reservations made from one IP address (IPv6: from one /64).",
        handling: Handling::Plain,
        field: field!(Count => limits.reservations_per_ip),
    },
    Variable {
        name: name::RESERVATION_TTL,
        default: Fallback::Text("1h"),
        doc: "How long a reservation lives unless it is renewed. Clients renew minutes before \
              the end, so values below 3m lead to gaps.",
        handling: Handling::Plain,
        field: field!(SECONDS_30 => limits.reservation_ttl),
    },
    Variable {
        name: name::CIRCUITS,
        default: Fallback::Text("512"),
        doc: "Circuits open at once.",
        handling: Handling::Plain,
        field: field!(Count => limits.circuits),
    },
    Variable {
        name: name::CIRCUITS_PER_PEER,
        default: Fallback::Text("5"),
        doc: "Circuits of one peer as source, and as many as target. Sets \
              `RELAY_MAX_CIRCUITS_PER_SOURCE` and `RELAY_MAX_CIRCUITS_PER_TARGET`, unless those are \
              set themselves.",
        handling: Handling::Plain,
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
        default: Fallback::Words("`RELAY_MAX_CIRCUITS_PER_PEER`"),
        doc: "Circuits that one peer has opened.",
        handling: Handling::Plain,
        field: field!(Count => limits.circuits_per_source),
    },
    Variable {
        name: name::CIRCUITS_PER_TARGET,
        default: Fallback::Words("`RELAY_MAX_CIRCUITS_PER_PEER`"),
        doc: "Circuits that lead to one peer. When they are all in use, unused ones give way to a \
              new one.",
        handling: Handling::Plain,
        field: field!(Count => limits.circuits_per_target),
    },
    // Long enough for a handshake and the first request over a slow network.
    Variable {
        name: "RELAY_UNUSED_CIRCUIT_TIMEOUT",
        default: Fallback::Text("30s"),
        doc: "How long a circuit may stay open until its target has sent the first byte.",
        handling: Handling::Plain,
        field: field!(SpanOrZero { zero: "unlimited" } => limits.unused_circuit_timeout),
    },
    // Off: applications keep quiet circuits open for hours.
    Variable {
        name: "RELAY_IDLE_CIRCUIT_TIMEOUT",
        default: Fallback::Text("0"),
        doc: "How long a circuit may stay open without a byte in either direction, once its target has \
              sent one.",
        handling: Handling::Plain,
        field: field!(SpanOrZero { zero: "unlimited" } => limits.idle_circuit_timeout),
    },
    Variable {
        name: "RELAY_PREFIX_SHARES",
        default: Fallback::Words(
            "1/8 for an IPv4 address and an IPv6 /64, 1/4 for an IPv4 /24 and an IPv6 /56, 1/2 for an IPv6 /48",
        ),
        doc: "Networks whose address prefixes may use another part of each resource when more than \
              three quarters of it are in use: mobile networks, proxies, networks of your own. See \
              `docs/limits.md`.",
        handling: Handling::Plain,
        field: field!(NetworkShares => limits.prefix_shares),
    },
    Variable {
        name: name::CIRCUIT_DURATION,
        default: Fallback::Text("1h"),
        doc: "How long one circuit may last.",
        handling: Handling::Plain,
        field: field!(SpanOrZero { zero: "unlimited" } => limits.circuit.duration),
    },
    Variable {
        name: "RELAY_MAX_CIRCUIT_BYTES",
        default: Fallback::Text("100MB"),
        doc: "What one circuit may carry, in each direction.",
        handling: Handling::Plain,
        field: field!(Size => limits.circuit.bytes),
    },
    Variable {
        name: "RELAY_MAX_MEMORY",
        default: Fallback::Text("auto"),
        doc: "Memory that the relay may use; `auto` is the limit of its container, or else all that \
              the machine has. From 90 % on newcomers are refused; see `docs/limits.md`.",
        handling: Handling::Plain,
        field: field!(Memory => memory),
    },
    // One address may be that of a thousand customers of a mobile network, who all come back at
    // once when the relay was restarted: as many as may reserve from there, each with a few
    // connections, and as many again who only connect. The steady rate costs two hundredths of a
    // processor.
    Variable {
        name: "RELAY_RATE_CONNECTIONS_PER_IP",
        default: Fallback::Text("500+20/s"),
        doc: "Connections from one IP address (IPv6: from one /64): so many at once, and so many \
              more each second.",
        handling: Handling::Plain,
        field: field!(BurstAndRate => admission.rate_per_ip),
    },
    // A client reserves once, and again when its connection was lost: this one may lose it every
    // six seconds for ever.
    Variable {
        name: "RELAY_RATE_RESERVATIONS_PER_PEER",
        default: Fallback::Text("20+10/m"),
        doc: "Reservations that one peer asks for. To renew is always allowed.",
        handling: Handling::Plain,
        field: field!(BurstAndRate => limits.reservation_rate.per_peer),
    },
    // As for connections: each of those may ask for one.
    Variable {
        name: "RELAY_RATE_RESERVATIONS_PER_IP",
        default: Fallback::Text("500+10/s"),
        doc: "Reservations that are asked for from one IP address (IPv6: from one /64). To renew \
              is always allowed.",
        handling: Handling::Plain,
        field: field!(BurstAndRate => limits.reservation_rate.per_ip),
    },
    // A client that joins a network may look for a hundred peers at once; whoever has found them
    // directly soon needs few circuits.
    Variable {
        name: "RELAY_RATE_CIRCUITS_PER_PEER",
        default: Fallback::Text("100+2/s"),
        doc: "Circuits that one peer asks for.",
        handling: Handling::Plain,
        field: field!(BurstAndRate => limits.circuit_rate.per_peer),
    },
    // Ten such clients at once.
    Variable {
        name: "RELAY_RATE_CIRCUITS_PER_IP",
        default: Fallback::Text("1000+20/s"),
        doc: "Circuits that are asked for from one IP address (IPv6: from one /64).",
        handling: Handling::Plain,
        field: field!(BurstAndRate => limits.circuit_rate.per_ip),
    },
    Variable {
        name: name::PROXIES,
        default: Fallback::Words("none"),
        doc: "The proxies and load balancers that say where a TCP or WebSocket connection really \
              comes from, in a PROXY protocol v2 header. Without it they are refused; from anybody \
              else it is not read.",
        handling: Handling::Plain,
        field: field!(Networks => admission.proxies),
    },
    Variable {
        name: name::BANDWIDTH,
        default: Fallback::Text("0"),
        doc: "Bytes a second through all circuits together, both directions counted; see `docs/bandwidth.md`.",
        handling: Handling::Plain,
        field: field!(RATE => limits.bandwidth.relay.rate),
    },
    Variable {
        name: name::BURST,
        default: Fallback::Text("0"),
        doc: "Bytes that may pass the relay at once, after fewer have passed than `RELAY_MAX_BANDWIDTH` allows.",
        handling: Handling::Plain,
        field: field!(BURST => limits.bandwidth.relay.burst),
    },
    Variable {
        name: name::BANDWIDTH_PER_PEER,
        default: Fallback::Text("0"),
        doc: "Bytes a second through the circuits of one peer, at either end, both directions counted.",
        handling: Handling::Plain,
        field: field!(RATE => limits.bandwidth.peer.rate),
    },
    Variable {
        name: name::BURST_PER_PEER,
        default: Fallback::Text("0"),
        doc: "The same of one peer, for `RELAY_MAX_BANDWIDTH_PER_PEER`.",
        handling: Handling::Plain,
        field: field!(BURST => limits.bandwidth.peer.burst),
    },
    Variable {
        name: name::BANDWIDTH_PER_CIRCUIT,
        default: Fallback::Text("0"),
        doc: "Bytes a second through one circuit, both directions counted.",
        handling: Handling::Plain,
        field: field!(RATE => limits.bandwidth.circuit.rate),
    },
    Variable {
        name: name::BURST_PER_CIRCUIT,
        default: Fallback::Text("0"),
        doc: "The same of one circuit, for `RELAY_MAX_BANDWIDTH_PER_CIRCUIT`.",
        handling: Handling::Plain,
        field: field!(BURST => limits.bandwidth.circuit.burst),
    },
    Variable {
        name: "RELAY_ACCESS_RESERVE_ALLOW",
        default: Fallback::Words("none"),
        doc: "Who may reserve, by peer id or by IP address: if set, nobody else.",
        handling: Handling::Plain,
        field: field!(Entries(Scope::Reserve, Effect::Allow) => access.reserve.allow),
    },
    Variable {
        name: "RELAY_ACCESS_RESERVE_DENY",
        default: Fallback::Words("none"),
        doc: "Who may not reserve, even if allowed.",
        handling: Handling::Plain,
        field: field!(Entries(Scope::Reserve, Effect::Deny) => access.reserve.deny),
    },
    Variable {
        name: "RELAY_ACCESS_CONNECT_ALLOW",
        default: Fallback::Words("none"),
        doc: "Who may open circuits, by peer id or by IP address: if set, nobody else.",
        handling: Handling::Plain,
        field: field!(Entries(Scope::Connect, Effect::Allow) => access.connect.allow),
    },
    Variable {
        name: "RELAY_ACCESS_CONNECT_DENY",
        default: Fallback::Words("none"),
        doc: "Who may not open circuits, even if allowed.",
        handling: Handling::Plain,
        field: field!(Entries(Scope::Connect, Effect::Deny) => access.connect.deny),
    },
    Variable {
        name: "RELAY_ACCESS_TARGET_ALLOW",
        default: Fallback::Words("none"),
        doc: "Peers that circuits may lead to: if set, to nobody else.",
        handling: Handling::Plain,
        field: field!(Entries(Scope::Target, Effect::Allow) => access.target.allow),
    },
    Variable {
        name: "RELAY_ACCESS_TARGET_DENY",
        default: Fallback::Words("none"),
        doc: "Peers that circuits may not lead to, even if allowed.",
        handling: Handling::Plain,
        field: field!(Entries(Scope::Target, Effect::Deny) => access.target.deny),
    },
    Variable {
        name: "RELAY_ACCESS_FILE",
        default: Fallback::Words("none"),
        doc: "A file with more such rules, read again when it changes; see `docs/access.md`.",
        handling: Handling::Plain,
        field: field!(FilePath => access.file),
    },
    Variable {
        name: name::ACCESS_URL,
        default: Fallback::Words("none"),
        doc: "An endpoint of yours that decides about what no rule refuses. It receives peer ids and IP addresses in full; see `docs/access.md`.",
        handling: Handling::Url,
        field: field!(EndpointUrl => access.url),
    },
    Variable {
        name: name::ACCESS_TOKEN,
        default: Fallback::Words("none"),
        doc: "Sent to the access endpoint as a bearer token.",
        handling: Handling::Secret,
        field: field!(Token => access.endpoint.token),
    },
    Variable {
        name: name::ACCESS_CERTIFICATE,
        default: Fallback::Words("none"),
        doc: "A PEM file with the certificates that the access endpoint is believed by, instead of those of the system.",
        handling: Handling::Plain,
        field: field!(FilePath => access.endpoint.certificate),
    },
    Variable {
        name: name::ACCESS_TIMEOUT,
        default: Fallback::Text("2s"),
        doc: "How long a decision of the access endpoint may take. A request of a peer or an IP address with too many questions waits as long again at most.",
        handling: Handling::Plain,
        field: field!(DECISION => access.endpoint.timeout),
    },
    Variable {
        name: name::ACCESS_ON_ERROR,
        default: Fallback::Text("fail-closed"),
        doc: "Without a decision of the access endpoint in time: refuse the request, or grant it.",
        handling: Handling::Plain,
        field: field!(ON_ERROR => access.endpoint.on_error),
    },
    Variable {
        name: name::ACCESS_CACHE_TTL,
        default: Fallback::Text("30s"),
        doc: "How long a decision of the access endpoint holds for the same question.",
        handling: Handling::Plain,
        field: field!(SpanOrZero { zero: "off" } => access.endpoint.cache_ttl),
    },
    Variable {
        name: name::ACCESS_CACHE_CAPACITY,
        default: Fallback::Text("8192"),
        doc: "Decisions that are remembered. Each takes up to 1 KiB.",
        handling: Handling::Plain,
        field: field!(CountUpTo(MAX_REMEMBERED) => access.endpoint.cache_capacity),
    },
    Variable {
        name: name::ACCESS_CONCURRENCY,
        default: Fallback::Text("32"),
        doc: "Decisions that the access endpoint is asked for at once. One peer has an eighth of them, one IP address (IPv6: one /64) a quarter or its share in `RELAY_PREFIX_SHARES`.",
        handling: Handling::Plain,
        field: field!(CountFromOne(MAX_CONCURRENCY) => access.endpoint.concurrency),
    },
    Variable {
        name: "RELAY_IDLE_TIMEOUT",
        default: Fallback::Text("60s"),
        doc: "How long a connection may hold neither a reservation nor a circuit.",
        handling: Handling::Plain,
        field: field!(SECONDS_5 => idle_timeout),
    },
    Variable {
        name: "RELAY_STATS_INTERVAL",
        default: Fallback::Text("60s"),
        doc: "Time between two lines of statistics in the log.",
        handling: Handling::Plain,
        field: field!(SpanOrZero { zero: "off" } => stats_interval),
    },
    Variable {
        name: "RELAY_LOG_FORMAT",
        default: Fallback::Text("auto"),
        doc: "Shape of the log; `auto` is `text` in a terminal and `json` otherwise.",
        handling: Handling::Plain,
        field: field!(LOG_FORMATS => log_format),
    },
    Variable {
        name: "RELAY_PEER_IDS",
        default: Fallback::Text("pseudonym"),
        doc: "How peers are named in logs and telemetry: by a keyed hash, the same on all \
              relays that share a seed, or by their peer ids.",
        handling: Handling::Plain,
        field: field!(PEER_IDS => peer_ids),
    },
    Variable {
        name: "RELAY_ADMIN_ADDRESS",
        default: Fallback::Text("0.0.0.0:8080"),
        doc: "Where the operator's HTTP endpoints listen.",
        handling: Handling::EmptyCounts,
        field: field!(Socket => admin_address),
    },
    Variable {
        name: "RELAY_PEER_STATS_CAPACITY",
        default: Fallback::Text("1024"),
        doc: "Peers of which `/peers` knows how much they moved; when there are more, those that \
              moved least are forgotten. Each takes up to 3 KiB.",
        handling: Handling::Plain,
        field: field!(CountUpTo(MAX_CAPACITY) => peer_stats.capacity),
    },
    Variable {
        name: "RELAY_PEER_STATS_WINDOW",
        default: Fallback::Text("5m"),
        doc: "The last while of which `/peers` tells apart from the total.",
        handling: Handling::Plain,
        field: field!(SECONDS_1 => peer_stats.window),
    },
    Variable {
        name: "RELAY_DRAIN_DELAY",
        default: Fallback::Text("5s"),
        doc: "After the signal to end: how long everything still works, so that DNS and load \
              balancers can forget this relay first.",
        handling: Handling::Plain,
        field: field!(SECONDS_0 => drain.delay),
    },
    Variable {
        name: name::DRAIN_WINDOW,
        default: Fallback::Text("30s"),
        doc: "After the delay: the time over which peers without a circuit are sent away, one by \
              one. At most `RELAY_DRAIN_TIMEOUT`.",
        handling: Handling::Plain,
        field: field!(SECONDS_0 => drain.window),
    },
    Variable {
        name: name::DRAIN_TIMEOUT,
        default: Fallback::Text("5m"),
        doc: "After the delay: how long open circuits may take to end by themselves. No circuit \
              that is open at the signal is cut when this is longer than \
              `RELAY_MAX_CIRCUIT_DURATION`.",
        handling: Handling::Plain,
        field: field!(SECONDS_0 => drain.timeout),
    },
    Variable {
        name: "RELAY_FLEET_INSTANCES",
        default: Fallback::Words("none"),
        doc: "`dns`, `dnsaddr`: the names of all relays of the fleet. With the seed they give \
              the peer ids that belong to it.",
        handling: Handling::Plain,
        field: field!(Instances => fleet),
    },
    Variable {
        name: "RELAY_DNS_ZONE",
        default: Fallback::Words("none"),
        doc: "`dns`, `dnsaddr`: the zone that holds the fleet's records.",
        handling: Handling::Plain,
        field: field!(ZoneName => dns.zone),
    },
    Variable {
        name: "RELAY_DNS_RELAYS",
        default: Fallback::Words("none"),
        doc: "`dns`: where the relays' operator endpoints are. A name stands for all the \
              addresses that it resolves to.",
        handling: Handling::Plain,
        field: field!(RelayHosts => dns.relays),
    },
    Variable {
        name: "RELAY_DNS_LISTEN",
        default: Fallback::Text("0.0.0.0:5300"),
        doc: "`dns`: where queries are answered, over UDP and TCP.",
        handling: Handling::Plain,
        field: field!(Sockets => dns.listen),
    },
    Variable {
        name: name::DNS_SERVERS,
        default: Fallback::Words("`ns.` and the zone"),
        doc: "`dns`: the name servers that the zone is delegated to.",
        handling: Handling::Plain,
        field: field!(NameServers => dns.servers),
    },
    Variable {
        name: "RELAY_DNS_TTL",
        default: Fallback::Text("5s"),
        doc: "`dns`: how long answers may be cached. With a `RELAY_DRAIN_DELAY` two seconds \
              longer, a relay is forgotten before it refuses anybody.",
        handling: Handling::Plain,
        field: field!(Ttl => dns.ttl),
    },
    Variable {
        name: "RELAY_DNS_RATE_LIMIT",
        default: Fallback::Text("100"),
        doc: "`dns`: answers a second over UDP to one /24 of IPv4 or /56 of IPv6. Beyond it, \
              every second query is told to come back over TCP.",
        handling: Handling::Plain,
        field: field!(Count => dns.rate),
    },
];

impl Variable {
    /// Whether its text must never be shown.
    pub(super) fn is_secret(&self) -> bool {
        self.handling == Handling::Secret
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

/// The configuration that an empty environment gives.
pub(super) fn defaults() -> Config {
    let mut config = Config::blank();
    for variable in VARIABLES {
        if let Fallback::Text(text) = variable.default {
            let set = (variable.field.set)(&mut config, text);
            debug_assert_eq!(
                set,
                Ok(()),
                "the default of {} is not allowed",
                variable.name
            );
        }
    }
    config
}
