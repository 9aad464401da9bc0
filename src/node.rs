//! A running relay: the owner of the swarm, with its event loop.
//!
//! [`Node::run`] has three stages: it serves until a stop is requested, drains, and closes all
//! connections. The last two are in `drain`.

pub(crate) mod addresses;
mod boxed;
mod connection_limits;
mod drain;
mod scarcity;
mod schedule;
mod swarm;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use circuit_relay::{Connection, Relay, Statistics, Transport};
use fleet_dns::external_address::is_public;
use futures::{FutureExt, StreamExt};
use libp2p::{
    Multiaddr, Swarm, core::transport::ListenerId, multiaddr::Protocol, swarm::SwarmEvent,
};
use lifecycle::{DrainConfig, Lifecycle, Phase};
use rate_limits::LogThrottle;
use resource_manager::Resources;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::{debug, error, info, warn};
use transports::{ConnectionGater, DialScope, quic};

use self::{
    addresses::{is_any_ipv6, is_link_local, is_loopback, join, own_addresses},
    boxed::Boxed,
    swarm::{Behaviour, BehaviourEvent},
};
use crate::{
    access,
    config::Config,
    identity::Identity,
    metrics::{self, Metrics},
    peer_stats::PeerStats,
    pseudonym::Pseudonyms,
    relay_observer::RelayObserver,
    telemetry::Telemetry,
};

/// How long to wait for the first address of every listener before the relay becomes ready. A
/// listener on all interfaces may never get one, such as `[::]` if no interface has an IPv6
/// address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for further addresses after the last one.
const ADDRESSES_SETTLED: Duration = Duration::from_millis(100);

/// Time after which the memory of closed connections has been returned to the system; longer than
/// the allocator caches it.
const SHED_PAUSE: Duration = Duration::from_secs(3);

/// Bytes that closing an idle connection frees at least.
const IDLE_CONNECTION_BYTES: u64 = 16 * 1024;

/// Memory that was freed under pressure.
#[derive(Clone, Copy)]
struct Shed {
    at: Instant,
    /// Bytes that the allocator returns within [`SHED_PAUSE`].
    bytes: u64,
}

impl Shed {
    /// Estimate of the bytes that the allocator has not returned yet, which must not be freed
    /// twice. It decreases linearly to 0.
    fn pending(self) -> u64 {
        let left = SHED_PAUSE.saturating_sub(self.at.elapsed()).as_millis();
        let pending = u128::from(self.bytes) * left / SHED_PAUSE.as_millis().max(1);
        u64::try_from(pending).unwrap_or(u64::MAX)
    }
}

/// Why the relay could not run, or ended with a failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transports could not be set up.
    #[error("cannot set up the transports: {0}")]
    Transport(transports::Error),
    /// A listen address could not be bound.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The configured address.
        address: Multiaddr,
        /// The error of the system.
        cause: String,
    },
    /// A task panicked, or a listener failed.
    #[error("the relay has failed; see the log above")]
    Failed,
}

/// A relay with bound listeners.
pub struct Node {
    swarm: Swarm<Boxed<Behaviour>>,
    quic: quic::Handle,
    gater: ConnectionGater,
    relay: Arc<Relay>,
    pseudonyms: Pseudonyms,
    peer_stats: Option<Arc<PeerStats>>,
    log_throttle: LogThrottle,
    resources: Resources,
    lifecycle: Lifecycle,
    metrics: Metrics,
    /// The configured external addresses; if empty, those of the interfaces are announced.
    external: Vec<Multiaddr>,
    /// Listeners with their addresses, except link-local ones.
    listeners: Vec<(ListenerId, Vec<Multiaddr>)>,
    started: Instant,
    /// When the relay becomes ready; `None` once it was.
    ready_at: Option<Instant>,
    statistics: Option<Interval>,
    /// Memory that was last freed under pressure.
    shed: Option<Shed>,
    drain: DrainConfig,
}

impl Node {
    /// Binds all listen addresses. Without `access`, every peer may reserve and connect.
    ///
    /// # Errors
    /// If the transports cannot be set up, or an address cannot be bound.
    pub fn bind(
        config: &Config,
        identity: &Identity,
        access: Option<access::Setup>,
        lifecycle: Lifecycle,
        telemetry: &Telemetry,
    ) -> Result<Self, Error> {
        let metrics = telemetry.metrics().clone();
        let keypair = identity.keypair();
        let pseudonyms = Pseudonyms::new(config.peer_ids, identity.pseudonym_key());
        let stats = &config.peer_stats;
        // Only the admin endpoints report these counters.
        let peer_stats = (stats.capacity > 0 && config.admin_address.is_some())
            .then(|| PeerStats::new(stats.capacity, stats.window));
        let access = access.map(|setup| {
            let relay = keypair.public().to_peer_id();
            let observer: Arc<dyn access::Observer> = Arc::new(metrics.clone());
            setup.start(
                relay,
                config.limits.prefix_shares.clone(),
                &observer,
                &lifecycle,
            ) as _
        });
        let log_throttle = LogThrottle::new();
        let observer = RelayObserver::new(
            pseudonyms.clone(),
            metrics.clone(),
            peer_stats.clone(),
            log_throttle.clone(),
        );
        let relay = Relay::new(
            keypair.clone(),
            circuit_relay::Config {
                limits: config.limits.clone(),
                access,
                observer: Arc::new(observer),
                lifecycle: lifecycle.clone(),
            },
        );
        let resources = Resources::of_process(
            config.memory,
            &relay.limits().circuit_limits(),
            relay.limits().prefix_shares.clone(),
        );
        resources.log();
        metrics::observe(&telemetry.meter(), &metrics, &relay, &lifecycle, &resources);
        // Behind a proxy, peers may appear to connect from this machine or its network. A relay
        // that listens on loopback addresses only is exempt, as it cannot be reached from
        // elsewhere.
        let is_local = config.listen_addresses.iter().all(is_loopback);
        let dials = if is_local {
            DialScope::Any
        } else {
            DialScope::Global
        };
        let observer: Arc<dyn transports::observer::Observer> = Arc::new(metrics.clone());
        let gater = ConnectionGater::new(
            config.admission.clone(),
            resources.clone(),
            Arc::clone(&observer),
            log_throttle.clone(),
        );
        let (transport, quic) =
            transports::build(keypair, config.swarm_key.as_ref(), dials, &gater, &observer)
                .map_err(Error::Transport)?;
        if let Some(key) = &config.swarm_key {
            let fingerprint = key.fingerprint();
            info!(%fingerprint, "private network: only peers with the swarm key can connect");
        }
        let behaviour = Boxed(Behaviour::new(
            &keypair.public(),
            &relay,
            &resources,
            &gater,
            &metrics,
            config.autonat,
        ));
        let settings = swarm::settings(&lifecycle, config.idle_timeout);
        let mut node = Self {
            swarm: Swarm::new(transport, behaviour, relay.peer_id(), settings),
            quic,
            gater,
            relay,
            pseudonyms,
            peer_stats,
            log_throttle,
            resources,
            lifecycle,
            metrics,
            external: config.external_addresses.clone(),
            listeners: Vec::new(),
            started: Instant::now(),
            ready_at: Some(Instant::now() + ADDRESS_TIMEOUT),
            statistics: config.stats_interval.map(ticks),
            shed: None,
            drain: config.drain.clone(),
        };
        node.listen(&config.listen_addresses)?;
        Ok(node)
    }

    /// The relay that the node serves.
    pub fn relay(&self) -> &Arc<Relay> {
        &self.relay
    }

    /// Pseudonyms of peers and networks in logs and telemetry.
    pub fn pseudonyms(&self) -> &Pseudonyms {
        &self.pseudonyms
    }

    /// Per-peer counters, if they are enabled.
    pub fn peer_stats(&self) -> Option<&Arc<PeerStats>> {
        self.peer_stats.as_ref()
    }

    /// The resource manager.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    fn listen(&mut self, addresses: &[Multiaddr]) -> Result<(), Error> {
        let has_ipv6 = addresses::has_ipv6();
        if !has_ipv6 && addresses.iter().any(is_any_ipv6) {
            info!("no IPv6 on this machine: listening on IPv4 only");
        }
        for address in addresses.iter().filter(|a| has_ipv6 || !is_any_ipv6(a)) {
            let failed = |error: &dyn std::error::Error| Error::Listen {
                address: address.clone(),
                cause: addresses::listen_failure(
                    address,
                    innermost(error),
                    transports::check_interface_watcher,
                ),
            };
            transports::check_exclusive(address).map_err(|error| failed(&error))?;
            let id = self.swarm.listen_on(address.clone());
            let id = id.map_err(|error| failed(&error))?;
            self.listeners.push((id, Vec::new()));
        }
        match addresses.first().filter(|_| self.listeners.is_empty()) {
            Some(address) => Err(Error::Listen {
                address: address.clone(),
                cause: "this machine has no IPv6".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Serves until a stop is requested, then drains and closes all connections.
    ///
    /// # Errors
    /// If a task panicked or a listener failed.
    pub async fn run(mut self) -> Result<(), Error> {
        let relay = Arc::clone(&self.relay);
        self.lifecycle
            .spawn_cancellable("expiry", Arc::clone(&relay).expire_reservations());
        self.lifecycle
            .spawn_cancellable("log throttle", self.log_throttle.clone().log_suppressed());
        self.lifecycle
            .spawn_cancellable("resources", self.resources.clone().monitor_memory());
        self.lifecycle.spawn_cancellable(
            "scarcity",
            scarcity::monitor(
                Arc::clone(&relay),
                self.resources.clone(),
                self.gater.clone(),
                self.pseudonyms.clone(),
            ),
        );
        if let Some(peers) = &self.peer_stats {
            self.lifecycle
                .spawn_cancellable("peer statistics", Arc::clone(peers).sweep());
        }
        let (quic, lifecycle) = (self.quic.clone(), self.lifecycle.clone());
        let life = async {
            let _ = lifecycle
                .drain_token()
                .run_until_cancelled(self.serve())
                .await;
            self.drain().await;
            self.close().await;
        };
        if AssertUnwindSafe(life).catch_unwind().await.is_err() {
            error!("event loop panicked: the relay ends with exit code 1");
            lifecycle.fail();
            drain::close_remaining(&quic, &lifecycle).await;
        }
        if lifecycle.has_failed() {
            Err(Error::Failed)
        } else {
            Ok(())
        }
    }

    /// Serves until the future is dropped.
    async fn serve(&mut self) {
        loop {
            self.handle_next_event().await;
        }
    }

    /// Handles the next event.
    async fn handle_next_event(&mut self) {
        tokio::select! {
            biased;
            () = tick(self.statistics.as_mut()) => self.log_statistics(),
            () = sleep_until(self.ready_at) => self.ready(),
            () = self.resources.memory_pressure() => self.shed(),
            () = self.resources.sockets_full() => self.free_descriptor(),
            event = self.swarm.select_next_some() => self.on_event(event),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } if is_link_local(&address) => {}
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                info!(address = %self.full(address.clone()), "listening");
                if let Some(addresses) = self.addresses_of(listener_id) {
                    addresses.push(address);
                }
                self.announce();
                // Either every listener has an address, or the timeout has passed and this is the
                // first one.
                let is_due = self.listeners.iter().all(|(_, a)| !a.is_empty());
                let is_late = self.ready_at.is_none();
                if self.lifecycle.phase() == Phase::Starting && (is_due || is_late) {
                    self.ready_at = Some(Instant::now() + ADDRESSES_SETTLED);
                }
            }
            SwarmEvent::ExpiredListenAddr {
                listener_id,
                address,
            } => {
                info!(address = %self.full(address.clone()), "no longer listening");
                if let Some(addresses) = self.addresses_of(listener_id) {
                    addresses.retain(|a| *a != address);
                }
                self.announce();
            }
            SwarmEvent::ListenerError { error, .. } => {
                debug!(%error, "a listener could not accept a connection");
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            } => {
                let addresses = self
                    .addresses_of(listener_id)
                    .map(std::mem::take)
                    .unwrap_or_default();
                error!(
                    addresses = join(addresses.iter()),
                    %error,
                    "listener failed: the relay drains and ends with exit code 1"
                );
                self.lifecycle.fail();
            }
            SwarmEvent::ConnectionClosed {
                cause: Some(error), ..
            } => debug!(%error, "a connection failed"),
            SwarmEvent::IncomingConnectionError { error, .. } => {
                debug!(%error, "an incoming connection failed");
                if let Some(reason) = swarm::denied(&error) {
                    self.gater.record_refusal(reason.as_str());
                }
            }
            _ => {}
        }
        self.count_pending();
    }

    /// Frees memory under pressure: the connections with the largest buffers reset their streams or
    /// are closed. At first only connections of heavy prefixes (see
    /// `Resources::relieve_heavy_prefixes`) are candidates, so that these do not keep new connections
    /// out. Above the critical watermark, all connections are.
    ///
    /// If no connection has buffers worth freeing then, idle connections are closed, the newest of
    /// prefixes beyond their share first. Connections with a reservation are spared while there are
    /// others, and until the memory of the last closed connections has been returned.
    fn shed(&mut self) {
        let pending = self.shed.map_or(0, Shed::pending);
        let is_recent = self.shed.is_some_and(|shed| shed.at.elapsed() < SHED_PAUSE);
        let excess = self.resources.excess().saturating_sub(pending);
        if excess == 0 {
            return;
        }
        let has_run_out = self.resources.has_run_out();
        // Other connections are relieved only when no connection of a prefix beyond its share is
        // left.
        let mut relieved = self.resources.relieve_heavy_prefixes(excess);
        if relieved.connections == 0 && has_run_out {
            relieved = self.resources.relieve_connections(excess);
        }
        let freed = if relieved.connections > 0 {
            let connections = relieved.connections;
            warn!(
                connections,
                buffered_bytes = relieved.bytes,
                has_run_out,
                "relieving memory: resetting streams or closing the connections that hold most"
            );
            for _ in 0..connections {
                self.gater.record_memory_close();
            }
            relieved.bytes
        } else if !has_run_out {
            return;
        } else {
            let count = usize::try_from(excess.div_ceil(IDLE_CONNECTION_BYTES));
            let count = count.unwrap_or(usize::MAX);
            let shares = self.resources.shares();
            let candidates = self.relay.connections_to_shed(count, !is_recent, shares);
            if candidates.is_empty() {
                return;
            }
            let connections = candidates.len();
            warn!(connections, "out of memory: closing connections");
            for connection in candidates {
                self.gater.record_memory_close();
                // The connection may already be closed.
                let _ = self.swarm.close_connection(connection);
            }
            IDLE_CONNECTION_BYTES.saturating_mul(connections as u64)
        };
        self.shed = Some(Shed {
            at: Instant::now(),
            bytes: pending.saturating_add(freed),
        });
    }

    /// Frees a file descriptor after a connection was refused for lack of one: closes the newest
    /// unused connection that holds one, of the prefix that uses most of its share.
    fn free_descriptor(&mut self) {
        let beyond = self.resources.heaviest_users_of_sockets();
        let has_descriptor = |connection: &Connection| connection.transport != Transport::Quic;
        let unused = self.relay.newest_unused_connection(&beyond, has_descriptor);
        if let Some(unused) = unused.filter(|unused| unused.evict()) {
            self.gater.record_eviction();
            let _ = self.swarm.close_connection(unused.id);
        }
    }

    /// Reports the number of pending incoming connections, as counted by the swarm.
    fn count_pending(&self) {
        let info = self.swarm.network_info();
        let pending = info.connection_counters().num_pending_incoming();
        self.metrics.connections_pending(pending);
    }

    fn addresses_of(&mut self, listener: ListenerId) -> Option<&mut Vec<Multiaddr>> {
        self.listeners
            .iter_mut()
            .find(|(id, _)| *id == listener)
            .map(|(_, addresses)| addresses)
    }

    /// Announces the configured addresses, or those of the interfaces if none are configured.
    fn announce(&mut self) {
        let known = if self.external.is_empty() {
            own_addresses(self.listeners.iter().flat_map(|(_, a)| a))
        } else {
            self.external.clone()
        };
        let announced = self.relay.announce(&known);
        let addresses = known.get(..announced).unwrap_or_default();
        if announced < known.len() {
            warn!(
                announced,
                known = known.len(),
                "not all addresses fit into an answer: set RELAY_EXTERNAL_ADDRESSES to the most \
                 important ones"
            );
        }
        let old: Vec<_> = self.swarm.external_addresses().cloned().collect();
        for address in old.iter().filter(|a| !addresses.contains(a)) {
            self.swarm.remove_external_address(address);
        }
        for address in addresses.iter().filter(|a| !old.contains(a)) {
            self.swarm.add_external_address(address.clone());
        }
        if old != addresses {
            let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
            self.swarm.behaviour_mut().0.identify.push(peers);
        }
    }

    fn ready(&mut self) {
        self.ready_at = None;
        let announced = self.relay.addresses();
        if announced.is_empty() {
            warn!(
                "the relay has no address to announce and refuses every reservation: set \
                 RELAY_EXTERNAL_ADDRESSES"
            );
            return;
        }
        if self.external.is_empty() {
            warn!(
                "RELAY_EXTERNAL_ADDRESSES is not set: announcing the addresses of the \
                 interfaces, which remote peers may be unable to reach"
            );
        }
        if !announced.iter().any(is_public) {
            warn!(
                announced = join(announced.iter()),
                "no announced address is public: clients of go-libp2p neither test their \
                 reachability with this relay nor advertise their addresses through it"
            );
        }
        let addresses = self.listeners.iter().flat_map(|(_, a)| a).cloned();
        let addresses: Vec<_> = addresses.map(|address| self.full(address)).collect();
        info!(
            peer_id = %self.relay.peer_id(),
            addresses = join(addresses.iter()),
            announced = join(announced.iter()),
            "relay ready"
        );
        self.lifecycle.enter(Phase::Ready);
    }

    /// `address` with the relay's peer id, as clients need it.
    fn full(&self, address: Multiaddr) -> Multiaddr {
        address.with(Protocol::P2p(self.relay.peer_id()))
    }

    /// Number of established connections and handshakes.
    fn connections(&self) -> u32 {
        let info = self.swarm.network_info();
        info.connection_counters().num_connections()
    }

    fn log_statistics(&self) {
        let Statistics {
            reservations,
            circuits,
            peers,
            bytes,
            ..
        } = self.relay.statistics();
        let connections = self.connections();
        let uptime_seconds = self.started.elapsed().as_secs();
        info!(
            uptime_seconds,
            circuits,
            reservations,
            peers,
            connections,
            bytes_relayed = bytes,
            "statistics"
        );
    }
}

/// The innermost cause of an error.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Never completes without an interval.
async fn tick(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Never completes without an instant.
async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
