//! Configuration from environment variables alone.
//!
//! Every variable is declared once, in `config/table.rs`; parsing, the list of known names, the output of
//! `descord-relay config` and the reference table of the documentation all come from there. The
//! process environment is never read in here: pairs are passed in, so that tests need none.
//!
//! ```
//! use descord_relay::config::Config;
//!
//! let loaded = Config::from_env([("RELAY_MAX_CIRCUITS", "64")])?;
//! assert_eq!(loaded.config.limits.circuits, Some(64));
//! assert_eq!(loaded.config.limits.reservations, Some(1024));
//!
//! let errors = Config::from_env([("RELAY_MAX_CIRCUIT", "64")]).unwrap_err();
//! assert!(errors.to_string().contains("did you mean RELAY_MAX_CIRCUITS?"));
//! # Ok::<(), descord_relay::config::Errors>(())
//! ```

mod access;
mod address;
mod checks;
mod dns;
mod environment;
mod error;
mod list;
mod load;
mod render;
mod resources;
mod secret;
mod service_link;
mod table;
mod template;
mod value_format;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use libp2p::Multiaddr;
use reqwest::Url;

pub(crate) use address::check_external;
pub use address::{MAX_EXTERNAL_ADDRESSES, MAX_EXTERNAL_ADDRESSES_BYTES};
pub use dns::MAX_FLEET;
pub use error::{Errors, VariableError, Warning};
pub use load::Loaded;
pub use render::reference_table;
pub use secret::Secret;

use crate::access::Entry;
pub use crate::relay::Limits;
use crate::relay::{Bandwidth, CircuitLimit, RequestRate};
use crate::resources::Shares;
pub use crate::transport::Admission;

/// Everything that the relay can be told. [`Default`] is what an empty environment gives, apart
/// from the instance name, which is then the machine's host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to accept connections; never empty.
    pub listen_addresses: Vec<Multiaddr>,
    /// What to announce, without a peer id; empty means the addresses of the machine's own
    /// interfaces. At most [`MAX_EXTERNAL_ADDRESSES`].
    pub external_addresses: Vec<Multiaddr>,
    /// Where the key pair comes from.
    pub identity: Identity,
    /// Reservations and circuits.
    pub limits: Limits,
    /// What the limits of circuits of one source and of one target are, unless those are set
    /// themselves. It has no effect besides.
    pub circuits_per_peer: Option<usize>,
    /// How much memory the relay may use.
    pub memory: MemoryLimit,
    /// Connections, before they are up.
    pub admission: Admission,
    /// Who may reserve, and who may connect to whom.
    pub access: Access,
    /// How long a connection may hold neither a reservation nor a circuit; at least 5 s.
    pub idle_timeout: Duration,
    /// Time between two lines of statistics; `None` = no such lines.
    pub stats_interval: Option<Duration>,
    /// Shape of the event log.
    pub log_format: LogFormat,
    /// How peers are named in logs, traces and answers to the operator.
    pub peer_ids: PeerIds,
    /// What is kept of who moves how much.
    pub peer_stats: PeerStats,
    /// Where the operator's HTTP endpoints listen; `None` = nowhere.
    pub admin_address: Option<SocketAddr>,
    /// The graceful end.
    pub drain: Drain,
    /// The instance names of the whole fleet; at most [`MAX_FLEET`]. Empty = not told.
    pub fleet: Vec<String>,
    /// The fleet's directory in DNS.
    pub dns: Dns,
}

/// Where the key pair comes from: the key, else the seed together with the instance name, else
/// chance. A loaded configuration never has both a key and a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of this relay within the fleet.
    pub instance: String,
    /// The fleet's shared secret; at least 16 characters.
    pub seed: Option<Secret>,
    /// Base64 of an Ed25519 private key in libp2p's protobuf form.
    pub key: Option<Secret>,
}

/// How much memory the relay may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// What the system leaves it: the smallest limit of its control groups, or else all that the
    /// machine has.
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// Any amount.
    Unlimited,
}

/// Who may reserve, and who may connect to whom: everybody, unless something here is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who may reserve.
    pub reserve: AccessLists,
    /// Who may open circuits.
    pub connect: AccessLists,
    /// To whom circuits may be opened; no entry is a network.
    pub target: AccessLists,
    /// More rules, which may change while the relay runs.
    pub file: Option<PathBuf>,
    /// Who decides when no rule refuses; `None` = nobody is asked.
    pub url: Option<Url>,
    /// The rest of what is known of whom to ask.
    pub endpoint: AccessEndpoint,
}

/// Entries that are allowed, and entries that are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessLists {
    /// If there are any, all others are denied.
    pub allow: Vec<Entry>,
    /// These win.
    pub deny: Vec<Entry>,
}

/// How the access endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessEndpoint {
    /// Sent as a bearer token.
    pub token: Option<Secret>,
    /// A PEM file with the certificates that are trusted instead of the system's.
    pub certificate: Option<PathBuf>,
    /// How long a decision may take; from 10 ms to 10 s. A peer waits as long again at most for
    /// other questions of its own.
    pub timeout: Duration,
    /// What becomes of a request when there is no decision.
    pub on_error: OnError,
    /// How long a decision is remembered; `None` = not at all.
    pub cache_ttl: Option<Duration>,
    /// How many decisions are remembered, 0 = none.
    pub cache_capacity: usize,
    /// How many decisions may be asked for at once; at least 1.
    pub concurrency: usize,
}

/// What becomes of a request when the endpoint that is to decide does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It is refused.
    FailClosed,
    /// It is granted.
    FailOpen,
}

/// What is kept of who moves how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStats {
    /// Of how many peers at most, 0 = of none; at most
    /// [`MAX_CAPACITY`](crate::peers::MAX_CAPACITY).
    pub capacity: usize,
    /// How long the last while is of which figures are kept apart; at least 1 s.
    pub window: Duration,
}

/// The graceful end: what happens between the first signal and the exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Time in which everything still works, so that DNS and endpoints can forget this relay.
    pub delay: Duration,
    /// Time over which the disconnections of idle peers are spread; never longer than `timeout`.
    pub window: Duration,
    /// Time that open circuits are given to end by themselves.
    pub timeout: Duration,
}

/// The fleet's directory in DNS: `descord-relay dns` and `descord-relay dnsaddr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The zone, in lower case and without the dot at its end.
    pub zone: Option<String>,
    /// Where queries are answered, over UDP and TCP; never empty.
    pub listen: Vec<SocketAddr>,
    /// Where the relays' operator endpoints are; at most [`MAX_FLEET`].
    pub relays: Vec<RelayHost>,
    /// How long answers may be cached; from a second to an hour.
    pub ttl: Duration,
    /// The zone's name servers, the first one being the primary. Each one inside the zone has an
    /// address, and no other one.
    pub servers: Vec<NameServer>,
    /// Answers a second to one network over UDP; `None` = no limit.
    pub rate: Option<usize>,
}

/// Where the operator's endpoints of one relay are, or of all that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayHost {
    /// A DNS name or an IP address.
    pub host: String,
    /// The port of the endpoints.
    pub port: u16,
}

/// A name server of the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its name, in lower case and without the dot at its end.
    pub name: String,
    /// Its addresses, if its name is inside the zone.
    pub addresses: Vec<IpAddr>,
}

/// Shape of the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// [`Text`](Self::Text) in a terminal, [`Json`](Self::Json) otherwise.
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// How peers are named in everything that the relay prints or exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerIds {
    /// A keyed hash, the same on every relay of the fleet.
    Pseudonym,
    /// The peer id itself.
    Full,
}

impl Default for Config {
    fn default() -> Self {
        table::defaults()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Config::default().limits
    }
}

impl Config {
    /// A configuration in which nothing is set yet: only the start from which the table's defaults
    /// are set.
    fn blank() -> Self {
        Self {
            listen_addresses: Vec::new(),
            external_addresses: Vec::new(),
            identity: Identity {
                instance: "relay".to_owned(),
                seed: None,
                key: None,
            },
            limits: Limits {
                reservations: None,
                reservations_per_peer: None,
                reservations_per_ip: None,
                reservation_ttl: Duration::ZERO,
                circuits: None,
                circuits_per_source: None,
                circuits_per_target: None,
                unused_circuit_timeout: None,
                idle_circuit_timeout: None,
                prefix_shares: Shares::default(),
                circuit: CircuitLimit::default(),
                reservation_rate: RequestRate::default(),
                circuit_rate: RequestRate::default(),
                bandwidth: Bandwidth::default(),
            },
            circuits_per_peer: None,
            memory: MemoryLimit::Unlimited,
            admission: Admission::default(),
            access: Access {
                reserve: AccessLists::default(),
                connect: AccessLists::default(),
                target: AccessLists::default(),
                file: None,
                url: None,
                endpoint: AccessEndpoint {
                    token: None,
                    certificate: None,
                    timeout: Duration::ZERO,
                    on_error: OnError::FailClosed,
                    cache_ttl: None,
                    cache_capacity: 0,
                    concurrency: 1,
                },
            },
            idle_timeout: Duration::ZERO,
            stats_interval: None,
            log_format: LogFormat::Auto,
            peer_ids: PeerIds::Pseudonym,
            peer_stats: PeerStats {
                capacity: 0,
                window: Duration::ZERO,
            },
            admin_address: None,
            drain: Drain {
                delay: Duration::ZERO,
                window: Duration::ZERO,
                timeout: Duration::ZERO,
            },
            fleet: Vec::new(),
            dns: Dns {
                zone: None,
                listen: Vec::new(),
                relays: Vec::new(),
                ttl: Duration::ZERO,
                servers: Vec::new(),
                rate: None,
            },
        }
    }
}
