//! What holds between variables, rather than of one.
//!
//! A limit that has no effect only because another one was lowered is not worth a line at every
//! start. That an upgrade cuts circuits is, even if the defaults are the cause.

use std::time::Duration;

use super::error::{VariableError, Warning};
use super::kind::{Kind, Size, show_duration};
use super::load::{NAMELESS, Origins};
use super::table::{VARIABLES, Variable, name};
use super::{Config, NameServer};
use crate::relay::{BandwidthLimit, BandwidthLimits};

/// Clients renew in the last two minutes of a reservation, some earlier.
const SHORTEST_SAFE_TTL: Duration = Duration::from_secs(3 * 60);

/// Values that contradict each other. Values that are wrong by themselves (`found`) are not
/// compared: the field still holds the default.
pub(super) fn errors(
    config: &Config,
    origins: &Origins,
    found: &[VariableError],
) -> Vec<VariableError> {
    let mut errors = Vec::new();
    let sound = |name: &str| found.iter().all(|error| error.name() != name);
    if origins.is_set(name::SEED) && origins.is_set(name::KEY) {
        errors.push(VariableError::new(
            name::KEY,
            format!(
                "cannot be set together with {}: the key needs no seed",
                name::SEED
            ),
        ));
    }
    if config.access.url.is_none() && sound(name::ACCESS_URL) {
        errors.extend(without_url(config));
    }
    let drain = &config.drain;
    if sound(name::DRAIN_WINDOW) && sound(name::DRAIN_TIMEOUT) && drain.window > drain.timeout {
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
    if sound(name::DNS_SERVERS) {
        errors.extend(config.dns.zone.iter().flat_map(|zone| {
            let servers = config.dns.servers.iter();
            servers.filter_map(|server| misplaced(server, zone))
        }));
    }
    errors
}

/// Whoever says how to ask an access endpoint wants one to be asked: without it, everybody would be
/// granted what it is to refuse.
fn without_url(config: &Config) -> impl Iterator<Item = VariableError> {
    let defaults = Config::default();
    let about = [
        name::ACCESS_TOKEN,
        name::ACCESS_CERTIFICATE,
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
        .map(|name| VariableError::new(name, format!("is of no use without {}", name::ACCESS_URL)))
}

/// Nobody finds a server inside the zone without asking the zone, and nobody believes the zone
/// about a server outside of it.
fn misplaced(server: &NameServer, zone: &str) -> Option<VariableError> {
    let rest = server.name.strip_suffix(zone);
    let is_inside = rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let what = match (is_inside, server.addresses.is_empty()) {
        (true, true) => "is inside the zone and needs its IP address: write",
        (false, false) => "is outside of the zone, which cannot tell its address: do not write",
        _ => return None,
    };
    let name = &server.name;
    Some(VariableError::new(
        name::DNS_SERVERS,
        format!("{name} {what} `{name}=192.0.2.53`"),
    ))
}

/// Values that can be used but are probably not what was meant.
pub(super) fn warnings(config: &Config, origins: &Origins) -> Vec<Warning> {
    let limits = &config.limits;
    [
        short_ttl(config),
        without_effect(
            origins,
            (name::RESERVATIONS_PER_IP, limits.reservations_per_ip),
            (name::RESERVATIONS, limits.reservations),
            |count| count.to_string(),
        ),
        without_effect(
            origins,
            (name::CIRCUITS_PER_PEER, config.circuits_per_peer),
            (name::CIRCUITS, limits.circuits),
            |count| count.to_string(),
        ),
        without_effect(
            origins,
            (name::CIRCUITS_PER_SOURCE, limits.circuits_per_source),
            (name::CIRCUITS, limits.circuits),
            |count| count.to_string(),
        ),
        without_effect(
            origins,
            (name::CIRCUITS_PER_TARGET, limits.circuits_per_target),
            (name::CIRCUITS, limits.circuits),
            |count| count.to_string(),
        ),
        everybody_is_a_proxy(config),
        circuits_outlive_drain(config),
        shared_name(config, origins),
    ]
    .into_iter()
    .chain(bandwidth(config, origins))
    .flatten()
    .collect()
}

/// Whoever is believed about its address has as many as it likes.
fn everybody_is_a_proxy(config: &Config) -> Option<Warning> {
    let mut proxies = config.admission.proxies.iter();
    let network = proxies.find(|network| network.prefix_len() == 0)?;
    Some(Warning::new(format!(
        "{} contains {network}: whoever connects may say that it is somebody else, and no limit \
         per IP address holds",
        name::PROXIES
    )))
}

/// A limit that is above a wider one, and a burst without a limit.
fn bandwidth(config: &Config, origins: &Origins) -> [Option<Warning>; 6] {
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
        without_effect(origins, circuit_rate, peer_rate, show),
        without_effect(origins, circuit_rate, relay_rate, show).filter(|_| peer.rate.is_none()),
        without_effect(origins, peer_rate, relay_rate, show),
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
             for a while",
            name::RESERVATION_TTL,
            show_duration(ttl),
            show_duration(SHORTEST_SAFE_TTL)
        ))
    })
}

/// A limit for one peer or address that is above the one for all.
fn without_effect<T: Copy + PartialOrd>(
    origins: &Origins,
    (name, each): (&str, Option<T>),
    (total_name, total): (&str, Option<T>),
    show: impl Fn(T) -> String,
) -> Option<Warning> {
    let (each, total) = (each?, total?);
    (origins.is_set(name) && each > total).then(|| {
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
            "{} ({}) is shorter than {} ({}): an upgrade cuts the circuits that need longer",
            name::DRAIN_TIMEOUT,
            show_duration(timeout),
            name::CIRCUIT_DURATION,
            duration.map_or_else(|| "unlimited".to_owned(), show_duration)
        ))
    })
}

/// Two relays that derive their keys from one seed and one name would be the same peer.
fn shared_name(config: &Config, origins: &Origins) -> Option<Warning> {
    let instance = config.identity.instance.as_str();
    let common = matches!(instance, NAMELESS | "localhost");
    (common && origins.is_set(name::SEED) && !origins.is_set(name::INSTANCE)).then(|| {
        Warning::new(format!(
            "{} is not set and the host name says little: every relay named {instance} with this \
             seed has the same peer id",
            name::INSTANCE
        ))
    })
}
