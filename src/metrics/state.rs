//! Observable instruments: callbacks that read the state at collection time.

use std::{sync::Arc, time::Instant};

use circuit_relay::{Relay, Statistics, bandwidth::BandwidthScope};
use lifecycle::{Lifecycle, Phase};
use opentelemetry::{KeyValue, metrics::Meter};
use resource_manager::{ResourceUse, Resources};

use super::{
    Metrics,
    catalogue::{
        ACCESS_RULES, ACCESS_STALE, BANDWIDTH_LIMIT, CIRCUIT_IO, CIRCUIT_LIMIT, CIRCUITS,
        CONNECTION_LIMIT, CONNECTIONS_PENDING, DRAIN_TIME_LEFT, MEMORY_LIMIT, PEERS, PHASE,
        RESERVATION_LIMIT, RESERVATIONS, RESOURCE_LARGEST_PREFIX, RESOURCE_LIMIT, RESOURCE_USAGE,
        THROTTLE_WAITS,
    },
    process,
};

/// Registers callbacks with `meter` that read the state of `relay` and of the process. Must be called
/// once, within the runtime.
pub fn observe(
    meter: &Meter,
    metrics: &Metrics,
    relay: &Arc<Relay>,
    lifecycle: &Lifecycle,
    resources: &Resources,
) {
    let count = |instrument: &super::Instrument, of: fn(&Statistics) -> usize| {
        let relay = Arc::clone(relay);
        instrument.observe(meter, move |observer| {
            observer.observe(of(&relay.statistics()) as u64, &[]);
        });
    };
    count(&RESERVATIONS, |now| now.reservations);
    count(&CIRCUITS, |now| now.circuits);
    count(&PEERS, |now| now.peers);

    let limits = relay.limits();
    for (instrument, limit) in [
        (&RESERVATION_LIMIT, limits.reservations),
        (&CIRCUIT_LIMIT, limits.circuits),
    ] {
        if let Some(limit) = limit {
            instrument.observe(meter, move |observer| observer.observe(limit as u64, &[]));
        }
    }
    let plan = resources.limits();
    if let Some(limit) = plan.memory {
        MEMORY_LIMIT.observe(meter, move |observer| observer.observe(limit, &[]));
    }
    let connections = plan.connections;
    CONNECTION_LIMIT.observe(meter, move |observer| {
        for (state, limit) in [
            ("active", connections.active),
            ("pending", connections.pending),
        ] {
            observer.observe(limit.into(), &[KeyValue::new("state", state)]);
        }
    });
    let pending = metrics.clone();
    CONNECTIONS_PENDING.observe(meter, move |observer| {
        observer.observe(pending.pending(), &[]);
    });

    observe_resources(meter, relay, resources);

    let access = metrics.clone();
    ACCESS_RULES.observe(meter, move |observer| {
        observer.observe(access.access().0, &[]);
    });
    let access = metrics.clone();
    ACCESS_STALE.observe(meter, move |observer| {
        observer.observe(access.access().1.into(), &[]);
    });

    let io = Arc::clone(relay);
    CIRCUIT_IO.observe(meter, move |observer| {
        io.traffic().for_each(|direction, source, target, bytes| {
            let attributes = [
                KeyValue::new("direction", direction),
                KeyValue::new("source_transport", source.as_str()),
                KeyValue::new("target_transport", target.as_str()),
            ];
            observer.observe(bytes, &attributes);
        });
    });

    let waits = Arc::clone(relay);
    THROTTLE_WAITS.observe(meter, move |observer| {
        let cause = |cause| [KeyValue::new("cause", cause)];
        observer.observe(waits.traffic().waits(), &cause("receiver"));
        for (of, number) in waits
            .bandwidth_limiter()
            .iter()
            .flat_map(|limiter| limiter.waits())
        {
            observer.observe(number, &cause(of.as_str()));
        }
    });
    let bandwidth = limits.bandwidth;
    BANDWIDTH_LIMIT.observe(meter, move |observer| {
        for (scope, limit) in [
            (BandwidthScope::Circuit, bandwidth.circuit),
            (BandwidthScope::Peer, bandwidth.peer),
            (BandwidthScope::Relay, bandwidth.relay),
        ] {
            if let Some(rate) = limit.rate {
                observer.observe(rate, &[KeyValue::new("scope", scope.as_str())]);
            }
        }
    });

    let phases = lifecycle.clone();
    PHASE.observe(meter, move |observer| {
        let now = phases.phase().as_str();
        for phase in Phase::NAMES {
            let is_now = u64::from(phase == now);
            observer.observe(is_now, &[KeyValue::new("phase", phase)]);
        }
    });
    let drain = lifecycle.clone();
    DRAIN_TIME_LEFT.observe_f64(meter, move |observer| {
        if let Phase::Draining { deadline, .. } = drain.phase() {
            let left = deadline
                .into_std()
                .saturating_duration_since(Instant::now());
            observer.observe(left.as_secs_f64(), &[]);
        }
    });
    process::observe(meter);
}

/// Registers the usage of the resources that address prefixes share.
fn observe_resources(meter: &Meter, relay: &Arc<Relay>, resources: &Resources) {
    let report = |instrument: &super::Instrument, of: fn(&ResourceUse) -> Option<u64>| {
        let (relay, resources) = (Arc::clone(relay), resources.clone());
        instrument.observe(meter, move |observer| {
            for report in resources.report().iter().chain(&relay.report()) {
                if let Some(units) = of(report) {
                    let resource = KeyValue::new("resource", report.resource.as_str());
                    observer.observe(units, &[resource]);
                }
            }
        });
    };
    report(&RESOURCE_USAGE, |report| Some(report.used));
    report(&RESOURCE_LIMIT, |report| report.limit);
    report(&RESOURCE_LARGEST_PREFIX, |report| {
        Some(report.largest.map_or(0, |(_, units)| units))
    });
}
