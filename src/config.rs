//! Configuration from environment variables.
//!
//! Every variable is declared once, in `config/table.rs`, which is the source of parsing, of the list
//! of known names, of the output of `descord-relay config` and of the reference in the documentation.
//! Settings are types of the modules that they configure, with their own defaults. This module never
//! reads the process environment: pairs are passed in, so tests need not change it.
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
mod circuit_limit;
mod dns;
mod environment;
mod error;
mod list;
mod load;
mod render;
mod resources;
mod service_link;
mod socket_address;
mod table;
mod template;
mod value_format;
mod value_sources;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use circuit_relay::Limits;
use fleet_dns::config::DnsConfig;
use libp2p::{Multiaddr, multiaddr::Protocol};
use lifecycle::DrainConfig;
use rate_limits::{Rate, Unit};
use resource_manager::MemoryLimit;
use transports::{Admission, SwarmKey};

use crate::access::AccessConfig;
use crate::autonat::Versions;
use crate::identity::IdentityConfig;
use crate::pseudonym::PeerIds;
use crate::telemetry::log::LogFormat;
pub use error::{Errors, VariableError, Warning};
pub use load::Loaded;
pub use render::reference;

/// The configuration of every subcommand. [`Default`] is the configuration of an empty environment,
/// apart from the instance name, which is then the machine's host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Addresses on which the relay accepts connections; never empty.
    pub listen_addresses: Vec<Multiaddr>,
    /// Addresses to announce, without a peer id; empty means the addresses of the machine's own
    /// interfaces. At most
    /// [`MAX_EXTERNAL_ADDRESSES`](fleet_dns::external_address::MAX_EXTERNAL_ADDRESSES).
    pub external_addresses: Vec<Multiaddr>,
    /// The key of the private network; `None` is the public network. There is no QUIC with it.
    pub swarm_key: Option<SwarmKey>,
    /// Where the key pair comes from.
    pub identity: IdentityConfig,
    /// Limits of reservations and circuits.
    pub limits: Limits,
    /// Sets the limits of circuits per source and per target, unless those are set themselves. It
    /// has no other effect.
    pub circuits_per_peer: Option<usize>,
    /// How much memory the relay may use.
    pub memory: MemoryLimit,
    /// Admission of new connections, before the handshake.
    pub admission: Admission,
    /// Access control.
    pub access: AccessConfig,
    /// Versions of `AutoNAT` that are served.
    pub autonat: Versions,
    /// How long a connection may have neither a reservation nor a circuit; at least 5 s. Peers that use
    /// identify or `AutoNAT` are exempt while there is [room](resource_manager::Resources::has_room).
    pub idle_timeout: Duration,
    /// Interval between two statistics lines in the log; `None` disables them.
    pub stats_interval: Option<Duration>,
    /// Shape of the event log.
    pub log_format: LogFormat,
    /// How peers are named in logs, traces and the admin API.
    pub peer_ids: PeerIds,
    /// Statistics per peer.
    pub peer_stats: PeerStats,
    /// Socket of the admin API; `None` disables it.
    pub admin_address: Option<SocketAddr>,
    /// Timing of the graceful drain.
    pub drain: DrainConfig,
    /// The instance names of the whole fleet; at most
    /// [`MAX_RELAYS`](fleet_dns::config::MAX_RELAYS). Empty if unknown.
    pub fleet: Vec<String>,
    /// The DNS server of the fleet.
    pub dns: DnsConfig,
}

/// Statistics per peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStats {
    /// Maximum number of tracked peers, 0 disables the statistics; at most
    /// [`MAX_CAPACITY`](crate::peer_stats::MAX_CAPACITY).
    pub capacity: usize,
    /// Length of the recent window that is reported in addition to totals; at least 1 s.
    pub window: Duration,
}

impl Default for PeerStats {
    fn default() -> Self {
        Self {
            capacity: 1024,
            window: Duration::from_secs(5 * 60),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            listen_addresses: default_listen_addresses(),
            external_addresses: Vec::new(),
            swarm_key: None,
            identity: IdentityConfig::default(),
            circuits_per_peer: limits.circuits_per_source,
            memory: MemoryLimit::default(),
            admission: Admission {
                // One address may be that of a thousand customers of a mobile network that all
                // reconnect at once after a restart of the relay: the burst allows as many as may
                // reserve from one address, each with a few connections, and as many again that
                // only connect. The sustained rate costs 2 % of a CPU core.
                rate_per_ip: Some(Rate::fixed(500, 20, Unit::Second)),
                proxies: Vec::new(),
            },
            access: AccessConfig::default(),
            autonat: Versions::default(),
            idle_timeout: Duration::from_secs(60),
            stats_interval: Some(Duration::from_secs(60)),
            log_format: LogFormat::default(),
            peer_ids: PeerIds::default(),
            peer_stats: PeerStats::default(),
            admin_address: Some((Ipv4Addr::UNSPECIFIED, 8080).into()),
            drain: DrainConfig {
                delay: Duration::from_secs(5),
                window: Duration::from_secs(30),
                timeout: DrainConfig::default_timeout(limits.circuit.duration),
            },
            limits,
            fleet: Vec::new(),
            dns: DnsConfig::default(),
        }
    }
}

/// TCP and QUIC on port 9000 of all interfaces.
fn default_listen_addresses() -> Vec<Multiaddr> {
    const PORT: u16 = 9000;
    let hosts = [
        Protocol::Ip4(Ipv4Addr::UNSPECIFIED),
        Protocol::Ip6(Ipv6Addr::UNSPECIFIED),
    ];
    hosts
        .into_iter()
        .flat_map(|host| {
            let host = Multiaddr::from(host);
            [
                host.clone().with(Protocol::Tcp(PORT)),
                host.with(Protocol::Udp(PORT)).with(Protocol::QuicV1),
            ]
        })
        .collect()
}
