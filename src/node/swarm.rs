//! The swarm of a relay: its behaviours and limits.

use std::{sync::Arc, time::Duration};

use circuit_relay::{Relay, TooManyConnections};
use libp2p::{
    identity::PublicKey,
    swarm::{Config, ListenError, NetworkBehaviour},
};
use lifecycle::Lifecycle;
use resource_manager::ConnectionDenyReason;
use resource_manager::Resources;
use transports::ConnectionGater;

use super::connection_limits::{self, LimitExceeded};
use crate::{autonat, dialback::DialPolicy, identify, metrics::Metrics, ping};

/// Inbound streams of one connection that may be negotiating their protocol at once.
const MAX_NEGOTIATING_STREAMS: usize = 256;

/// All protocols of a relay.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    relay: circuit_relay::Behaviour,
    pub(super) identify: identify::Behaviour,
    ping: ping::Behaviour,
    autonat: autonat::Behaviour,
}

impl Behaviour {
    pub(super) fn new(
        public: &PublicKey,
        relay: &Arc<Relay>,
        resources: &Resources,
        gater: &ConnectionGater,
        metrics: &Metrics,
        autonat: autonat::Versions,
    ) -> Self {
        Self {
            limits: connection_limits::Behaviour::new(
                resources.clone(),
                gater.clone(),
                Arc::clone(relay),
            ),
            relay: circuit_relay::Behaviour::new(Arc::clone(relay)),
            identify: identify::Behaviour::new(
                public,
                relay.lifecycle().clone(),
                resources.clone(),
            ),
            ping: ping::Behaviour,
            autonat: autonat::Behaviour::new(
                autonat,
                DialPolicy::new(Arc::clone(relay), Arc::new(metrics.clone())),
                resources.clone(),
            ),
        }
    }
}

/// Configuration of the swarm. Its tasks are spawned on `lifecycle`.
pub(super) fn settings(lifecycle: &Lifecycle, idle_timeout: Duration) -> Config {
    let lifecycle = lifecycle.clone();
    Config::with_executor(move |future| lifecycle.spawn("connection", future))
        .with_idle_connection_timeout(idle_timeout)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS)
}

/// Why a connection was denied; `None` if it failed for another reason.
pub(super) fn denied(error: &ListenError) -> Option<ConnectionDenyReason> {
    let ListenError::Denied { cause } = error else {
        return None;
    };
    Some(match cause.downcast_ref::<LimitExceeded>() {
        Some(exceeded) => exceeded.reason(),
        None if cause.downcast_ref::<TooManyConnections>().is_some() => {
            ConnectionDenyReason::MaxConnectionsPerPeer
        }
        None => ConnectionDenyReason::Other,
    })
}
