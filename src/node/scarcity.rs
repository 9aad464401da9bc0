//! Logs when a resource becomes scarce, and when most clients connect from one private or proxy
//! address.

use std::{collections::HashSet, sync::Arc, time::Duration};

use circuit_relay::Relay;
use resource_manager::{Resource, ResourceUse, Resources, is_private};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};
use transports::ConnectionGater;

use crate::pseudonym::Pseudonyms;

/// Interval of the checks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Checks the use of resources at intervals. Runs until the relay stops.
pub(super) async fn monitor(
    relay: Arc<Relay>,
    resources: Resources,
    gater: ConnectionGater,
    names: Pseudonyms,
) {
    let mut monitor = Monitor::default();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for report in resources.report().into_iter().chain(relay.report()) {
            monitor.update(&report, &gater, &names);
        }
    }
}

#[derive(Default)]
struct Monitor {
    scarce: HashSet<Resource>,
    has_majority: bool,
}

impl Monitor {
    fn update(&mut self, report: &ResourceUse, gater: &ConnectionGater, names: &Pseudonyms) {
        let resource = report.resource.as_str();
        let is_scarce = report.is_scarce();
        if is_scarce && self.scarce.insert(report.resource) {
            let largest = report.largest;
            warn!(
                resource,
                used = report.used,
                limit = report.limit,
                largest_prefix = largest.map(|(prefix, _)| names.network(prefix)),
                largest_prefix_used = largest.map(|(_, used)| used),
                "resource is scarce: address prefixes are limited to their shares"
            );
        } else if !is_scarce && self.scarce.remove(&report.resource) {
            info!(resource, used = report.used, "resource is no longer scarce");
        }
        if report.resource == Resource::Connections {
            let majority = report
                .majority()
                .filter(|prefix| is_private(prefix.network()) || gater.is_proxy(prefix.network()));
            if let Some(prefix) = majority.filter(|_| !self.has_majority) {
                warn!(
                    prefix = names.network(prefix),
                    connections = report.used,
                    "more than half of the clients come from one private or proxy address: limits and \
                     shares per address apply to all of them together; set RELAY_TRUSTED_PROXIES if \
                     it is a proxy that sends their addresses, or RELAY_PREFIX_SHARES to give it more"
                );
            }
            self.has_majority = majority.is_some();
        }
    }
}
