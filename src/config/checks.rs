//! Checks across variables.
//!
//! A limit that has no effect only because another one was lowered causes no warning. Upgrades that
//! cut circuits do, even if the default of the drain timeout is the cause, because circuits are
//! unlimited.

use std::time::Duration;

use circuit_relay::{BandwidthLimit, BandwidthLimits};
use fleet_dns::config::NameServer;

use super::Config;
use super::address::is_quic;
use super::circuit_limit;
use super::error::{VariableError, Warning};
use super::table::{VARIABLES, Variable, name};
use super::value_format::{Size, ValueFormat, show_duration};
use super::value_sources::ValueSources;
use crate::identity::DEFAULT_INSTANCE;

/// Clients renew in the last two minutes of a reservation, some of them earlier.
const SHORTEST_SAFE_TTL: Duration = Duration::from_secs(3 * 60);

/// Errors about values that contradict each other. Variables that are invalid themselves (`found`) are
/// not compared, because their fields still have the default.
pub(super) fn errors(
    config: &Config,
    sources: &ValueSources,
    found: &[VariableError],
) -> Vec<VariableError> {
    let mut errors = Vec::new();
    let is_valid = |name: &str| found.iter().all(|error| error.name() != name);
    if sources.is_set(name::SEED) && sources.is_set(name::KEY) {
        errors.push(VariableError::new(
            name::KEY,
            format!(
                "cannot be set together with {}: the key needs no seed",
                name::SEED
            ),
        ));
    }
    if config.swarm_key.is_some() {
        errors.extend(quic_addresses(config));
    }
    if config.access.url.is_none() && is_valid(name::ACCESS_URL) {
        errors.extend(settings_without_access_url(config));
    }
    let drain = &config.drain;
    if is_valid(name::DRAIN_WINDOW) && is_valid(name::DRAIN_TIMEOUT) && drain.window > drain.timeout
    {
        errors.push(VariableError::new(
            name::DRAIN_WINDOW,
            format!(
                "{} is longer than {} ({}); allowed: at most that",
                show_duration(drain.window),
                name::DRAIN_TIMEOUT,
                show_duration(drain.timeout)
            ),
        ));
    }
    if is_valid(name::DNS_SERVERS) {
        errors.extend(config.dns.zone.iter().flat_map(|zone| {
            let servers = config.dns.servers.iter();
            servers.filter_map(|server| check_name_server(server, zone))
        }));
    }
    errors
}

/// Addresses of QUIC, which private networks do not have. Those of the default were left out.
fn quic_addresses(config: &Config) -> impl Iterator<Item = VariableError> {
    let lists = [
        (name::LISTEN_ADDRESSES, &config.listen_addresses),
        (name::EXTERNAL_ADDRESSES, &config.external_addresses),
    ];
    lists.into_iter().filter_map(|(name, addresses)| {
        let address = addresses.iter().find(|address| is_quic(address))?;
        Some(VariableError::new(
            name,
            format!(
                "contains {address}, which cannot be used with {}: there is no QUIC in private \
                 networks; allowed: TCP and WebSocket",
                name::SWARM_KEY
            ),
        ))
    })
}

/// Settings of the access endpoint without its URL are an error: otherwise all requests that the
/// endpoint is to decide on would be granted.
fn settings_without_access_url(config: &Config) -> impl Iterator<Item = VariableError> {
    let defaults = Config::default();
    let about = [
        name::ACCESS_TOKEN,
        name::ACCESS_CA_FILE,
        name::ACCESS_TIMEOUT,
        name::ACCESS_ON_ERROR,
        name::ACCESS_CACHE_TTL,
        name::ACCESS_CACHE_CAPACITY,
        name::ACCESS_CONCURRENCY,
    ];
    let differs = |variable: &&Variable| {
        let show = variable.field.show;
        about.contains(&variable.name) && show(config) != show(&defaults)
    };
    let set = VARIABLES.iter().filter(differs);
    let names: Vec<_> = set.map(|variable| variable.name).collect();
    names
        .into_iter()
        .map(|name| VariableError::new(name, format!("has no effect without {}", name::ACCESS_URL)))
}

/// A name server inside the zone needs glue records; for a name outside of the zone, resolvers ignore
/// them.
fn check_name_server(server: &NameServer, zone: &str) -> Option<VariableError> {
    let rest = server.name.strip_suffix(zone);
    let is_inside = rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let what = match (is_inside, server.addresses.is_empty()) {
        (true, true) => "is inside the zone and needs its IP address: write",
        (false, false) => "is outside of the zone, which cannot have its address: do not write",
        _ => return None,
    };
    let name = &server.name;
    Some(VariableError::new(
        name::DNS_SERVERS,
        format!("{name} {what} `{name}=192.0.2.53`"),
    ))
}

/// Warnings about values that are valid but probably unintended.
pub(super) fn warnings(config: &Config, sources: &ValueSources) -> Vec<Warning> {
    let limits = &config.limits;
    [
        short_ttl(config),
        limit_without_effect(
            sources,
            (name::RESERVATIONS_PER_IP, limits.reservations_per_ip),
            (name::RESERVATIONS, limits.reservations),
            |count| count.to_string(),
        ),
        limit_without_effect(
            sources,
            (name::CIRCUITS_PER_PEER, config.circuits_per_peer),
            (name::CIRCUITS, limits.circuits),
            |count| count.to_string(),
        ),
        limit_without_effect(
            sources,
            (name::CIRCUITS_PER_SOURCE, limits.circuits_per_source),
            (name::CIRCUITS, limits.circuits),
            |count| count.to_string(),
        ),
        limit_without_effect(
            sources,
            (name::CIRCUITS_PER_TARGET, limits.circuits_per_target),
            (name::CIRCUITS, limits.circuits),
            |count| count.to_string(),
        ),
        trusts_every_address(config),
        circuits_outlive_drain(config),
        shared_instance_name(config, sources),
        circuit_limit::half_unlimited(config),
    ]
    .into_iter()
    .chain(bandwidth(config, sources))
    .flatten()
    .collect()
}

/// A trusted proxy may claim any client address.
fn trusts_every_address(config: &Config) -> Option<Warning> {
    let mut proxies = config.admission.proxies.iter();
    let network = proxies.find(|network| network.prefix_len() == 0)?;
    Some(Warning::new(format!(
        "{} contains {network}: any client can claim any address, so limits per IP address have no \
         effect",
        name::TRUSTED_PROXIES
    )))
}

/// Limits that are above a wider one, and bursts without a limit.
fn bandwidth(config: &Config, sources: &ValueSources) -> [Option<Warning>; 6] {
    let BandwidthLimits {
        relay,
        peer,
        circuit,
    } = config.limits.bandwidth;
    let relay_rate = (name::BANDWIDTH, relay.rate);
    let peer_rate = (name::BANDWIDTH_PER_PEER, peer.rate);
    let circuit_rate = (name::BANDWIDTH_PER_CIRCUIT, circuit.rate);
    let show = |rate| Size.show(&Some(rate));
    let useless = |burst: &str, rate: &str, limit: BandwidthLimit| {
        let text = format!("{burst} has no effect: {rate} is unlimited");
        (limit.burst.is_some() && limit.rate.is_none()).then(|| Warning::new(text))
    };
    [
        limit_without_effect(sources, circuit_rate, peer_rate, show),
        limit_without_effect(sources, circuit_rate, relay_rate, show)
            .filter(|_| peer.rate.is_none()),
        limit_without_effect(sources, peer_rate, relay_rate, show),
        useless(name::BURST, name::BANDWIDTH, relay),
        useless(name::BURST_PER_PEER, name::BANDWIDTH_PER_PEER, peer),
        useless(
            name::BURST_PER_CIRCUIT,
            name::BANDWIDTH_PER_CIRCUIT,
            circuit,
        ),
    ]
}

fn short_ttl(config: &Config) -> Option<Warning> {
    let ttl = config.limits.reservation_ttl;
    (ttl < SHORTEST_SAFE_TTL).then(|| {
        Warning::new(format!(
            "{} is {}: below {}, clients that renew in the last minutes of a reservation lose it \
             temporarily",
            name::RESERVATION_TTL,
            show_duration(ttl),
            show_duration(SHORTEST_SAFE_TTL)
        ))
    })
}

/// A limit per peer or per address that is above the total limit.
fn limit_without_effect<T: Copy + PartialOrd>(
    sources: &ValueSources,
    (name, each): (&str, Option<T>),
    (total_name, total): (&str, Option<T>),
    show: impl Fn(T) -> String,
) -> Option<Warning> {
    let (each, total) = (each?, total?);
    (sources.is_set(name) && each > total).then(|| {
        let (each, total) = (show(each), show(total));
        Warning::new(format!(
            "{name} ({each}) has no effect: {total_name} ({total}) is lower"
        ))
    })
}

fn circuits_outlive_drain(config: &Config) -> Option<Warning> {
    let timeout = config.drain.timeout;
    let duration = config.limits.circuit.duration;
    let longer = duration.is_none_or(|duration| duration > timeout);
    longer.then(|| {
        Warning::new(format!(
            "{} ({}) is shorter than {} ({}): an upgrade cuts longer circuits",
            name::DRAIN_TIMEOUT,
            show_duration(timeout),
            name::CIRCUIT_DURATION,
            duration.map_or_else(|| "unlimited".to_owned(), show_duration)
        ))
    })
}

/// Two relays that derive their keys from the same seed and name would be the same peer.
fn shared_instance_name(config: &Config, sources: &ValueSources) -> Option<Warning> {
    let instance = config.identity.instance.as_str();
    let common = matches!(instance, DEFAULT_INSTANCE | "localhost");
    (common && sources.is_set(name::SEED) && !sources.is_set(name::INSTANCE)).then(|| {
        Warning::new(format!(
            "{} is not set and the host name is not unique: every relay named {instance} with this \
             seed has the same peer id",
            name::INSTANCE
        ))
    })
}
