//! `dnsaddr` and `dns`: the DNS directory of a fleet.

use std::{env, ffi::OsString, process::ExitCode, sync::Arc, time::Duration};

use fleet_dns::{
    discovery::{DiscoveredAddresses, RelayDiscovery},
    dnsaddr::{Member, dedup_labels},
    observer::Observer,
    poller::StatusPoller,
    server::DnsServer,
    status::FleetMembers,
    zone::ZoneConfig,
    zone_file,
};
use lifecycle::{Lifecycle, Phase};
use tokio::{sync::watch, time::timeout};
use tracing::warn;

use super::{output, signals::SignalHandler, usage_error, with_telemetry};
use crate::{
    admin,
    config::{Config, Loaded},
    dns::{health, metrics::DnsMetrics, status_client::AdminStatusClient},
    identity,
    metrics::observe_process,
    telemetry::Telemetry,
};

/// The instance name with which the environment is read before the relays' names are known.
const PLACEHOLDER_INSTANCE: &str = "relay-0";
/// Deadline of the tasks at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// Print the fleet's `_dnsaddr` records, for other name servers.
///
/// Peer ids are derived from `RELAY_IDENTITY_SEED` and the relays' names, addresses from
/// `RELAY_EXTERNAL_ADDRESSES` with `{instance}` and `{index}`, and the zone is `RELAY_DNS_ZONE`. No
/// relay needs to run.
#[derive(Debug, clap::Args)]
pub(super) struct DnsaddrArgs {
    /// Names of all relays, such as `relay-0 relay-1 relay-2`; default: `RELAY_FLEET_INSTANCES`.
    #[arg(value_name = "INSTANCE")]
    instances: Vec<String>,
    /// Print the `spec` of a `DNSEndpoint` for external-dns instead of a zone file.
    #[arg(long)]
    json: bool,
    /// TTL of the records, for `--json`. The records do not depend on the state of the relays, so they
    /// may be cached for long.
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

/// The configuration of the relay with this instance name.
pub(super) fn load(instance: &str) -> Result<Config, ExitCode> {
    let instance = (OsString::from("RELAY_INSTANCE"), OsString::from(instance));
    match Config::from_env(env::vars_os().chain([instance])) {
        Ok(loaded) => Ok(loaded.config),
        Err(errors) => Err(usage_error(&errors)),
    }
}

/// Reports the variables that are missing.
fn require(needed: &[(&str, bool)]) -> Result<(), ExitCode> {
    let missing: Vec<_> = needed
        .iter()
        .filter(|(_, is_set)| !is_set)
        .map(|(name, _)| format!("{name}: is required by this command"))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(usage_error(&missing.join("\n")))
    }
}

pub(super) fn dnsaddr(args: &DnsaddrArgs) -> ExitCode {
    print_records(args).unwrap_or_else(|code| code)
}

fn print_records(args: &DnsaddrArgs) -> Result<ExitCode, ExitCode> {
    let first = args
        .instances
        .first()
        .map_or(PLACEHOLDER_INSTANCE, String::as_str);
    let config = load(first)?;
    let instances = match args.instances.as_slice() {
        [] => &config.fleet,
        instances => instances,
    };
    require(&[
        ("RELAY_DNS_ZONE", config.dns.zone.is_some()),
        ("RELAY_IDENTITY_SEED", config.identity.seed.is_some()),
        (
            "RELAY_EXTERNAL_ADDRESSES",
            !config.external_addresses.is_empty(),
        ),
        ("RELAY_FLEET_INSTANCES", !instances.is_empty()),
    ])?;
    let (Some(zone), Some(seed)) = (&config.dns.zone, &config.identity.seed) else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut members = Vec::new();
    for instance in instances {
        let addresses = load(instance)?.external_addresses;
        let peer_id = identity::peer_id_of(seed, instance);
        let member = Member::new(Some(instance), peer_id, addresses);
        if !members.contains(&member) {
            members.push(member);
        }
    }
    dedup_labels(&mut members);
    let sets = zone_file::txt_record_sets(zone, &members);
    for warning in zone_file::warnings(&sets, &members) {
        output::report(format_args!("warning: {warning}"));
    }
    Ok(if args.json {
        let endpoints = zone_file::to_dns_endpoint(&sets, args.ttl.as_secs());
        output::print_line(format_args!("{endpoints:#}"))
    } else {
        output::print(zone_file::to_zone_file(&sets))
    })
}

pub(super) fn dns(Loaded { config, .. }: &Loaded) -> ExitCode {
    let origin = match zone_config(config) {
        Ok(origin) => origin,
        Err(code) => return code,
    };
    with_telemetry(config, async |telemetry| {
        if config.dns.servers.is_empty() {
            warn!(
                "RELAY_DNS_NS is not set: the zone has a name server without an address and cannot be \
                 delegated"
            );
        }
        run(config, origin, telemetry).await
    })
}

/// The zone of the configuration.
fn zone_config(config: &Config) -> Result<ZoneConfig, ExitCode> {
    require(&[
        ("RELAY_DNS_ZONE", config.dns.zone.is_some()),
        ("RELAY_DNS_RELAYS", !config.dns.relays.is_empty()),
    ])?;
    let zone = config.dns.zone.as_deref().unwrap_or_default();
    ZoneConfig::new(zone, &config.dns)
        .map_err(|error| usage_error(&format!("RELAY_DNS_ZONE: {error}")))
}

/// The peer ids of the fleet, if both the seed and the names are set.
fn fleet_members(config: &Config) -> Option<FleetMembers> {
    let seed = config.identity.seed.as_ref();
    match (seed, config.fleet.as_slice()) {
        (Some(_), []) | (None, _) => {
            warn!(
                "RELAY_IDENTITY_SEED and RELAY_FLEET_INSTANCES are not both set: any host at \
                 the address of a relay is published in the zone"
            );
            None
        }
        (Some(seed), instances) => {
            let peer = |name: &String| (identity::peer_id_of(seed, name), name.clone());
            Some(instances.iter().map(peer).collect())
        }
    }
}

async fn run(
    config: &Config,
    origin: ZoneConfig,
    telemetry: &Telemetry,
) -> Result<(), Box<dyn std::error::Error>> {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_cancellable("lost log lines", telemetry.report_lost_lines());
    // Nothing is drained, so it makes no difference whether the server is used.
    SignalHandler::register()?.spawn(&lifecycle, || false);
    observe_process(&telemetry.meter());
    let observer: Arc<dyn Observer> = Arc::new(DnsMetrics::new(&telemetry.meter()));
    let poller = StatusPoller::new(
        origin,
        fleet_members(config),
        Arc::new(AdminStatusClient),
        Arc::clone(&observer),
    );
    let server = DnsServer::new(poller.zone(), observer);
    for &address in &config.dns.listen {
        let serving = server.serve(address, config.dns.rate, &lifecycle);
        serving
            .map_err(|error| format!("cannot listen on {address} (RELAY_DNS_LISTEN): {error}"))?;
    }
    if let Some(address) = config.admin_address {
        let routes = health::routes(poller.zone(), lifecycle.clone(), telemetry.prometheus());
        let serving = admin::server::serve(address, routes, &lifecycle);
        serving.map_err(|error| {
            format!("cannot listen on {address} (RELAY_ADMIN_ADDRESS): {error}")
        })?;
    }
    let discovery = RelayDiscovery::new(config.dns.relays.clone())?;
    let (sender, addresses) = watch::channel(DiscoveredAddresses::default());
    lifecycle.spawn_cancellable("relay discovery", discovery.run(sender));
    lifecycle.spawn_cancellable("status poller", poller.run(addresses));
    lifecycle.enter(Phase::Ready);

    lifecycle.drain_token().cancelled().await;
    // A query takes no time, so there is nothing to drain.
    lifecycle.shutdown_token().cancel();
    let _ = timeout(SHUTDOWN_TIMEOUT, lifecycle.wait()).await;
    if lifecycle.has_failed() {
        return Err("a task panicked".into());
    }
    Ok(())
}
