//! The relay as a running node: the only owner of the swarm, and its event loop.
//!
//! Three acts: [`Node::run`] serves until it is told to stop, drains, and closes what is left. The
//! last two are in `ending`.

mod addresses;
mod boxed;
mod connection_limits;
mod ending;
mod scarcity;
mod schedule;
mod swarm;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use libp2p::{
    Multiaddr, Swarm, core::transport::ListenerId, multiaddr::Protocol, swarm::SwarmEvent,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::{debug, error, info, warn};

use self::{
    addresses::{is_any_ipv6, is_link_local, is_loopback, join, own_addresses},
    boxed::Boxed,
    swarm::{Behaviour, BehaviourEvent},
};
use crate::{
    access,
    config::Config,
    identity::Identity,
    lifecycle::{DrainConfig, Lifecycle, Phase},
    metrics::{self, Metrics},
    peers::Peers,
    pseudonym::Pseudonyms,
    relay::{Connection, Relay, Statistics, Transport},
    resources::Resources,
    telemetry::Telemetry,
    transport::{self, ConnectionGater, Dials, quic},
};

/// How long to wait for the first address of every listener before the relay is called ready.
/// A listener on all interfaces may have none: `[::]` where no interface has an IPv6 address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after the last address no more of them are expected.
const ADDRESSES_SETTLED: Duration = Duration::from_millis(100);

/// How long it takes until memory that connections had is known to be free: longer than the allocator
/// keeps it.
const SHED_PAUSE: Duration = Duration::from_secs(3);

/// What closing an idle connection frees at least, in bytes.
const IDLE_CONNECTION_BYTES: u64 = 16 * 1024;

/// Memory that was freed because it was short.
#[derive(Clone, Copy)]
struct Shed {
    at: Instant,
    /// What the allocator gives back within [`SHED_PAUSE`].
    bytes: u64,
}

impl Shed {
    /// What the allocator has not given back yet, and what must not be freed twice: less and less.
    fn pending(self) -> u64 {
        let left = SHED_PAUSE.saturating_sub(self.at.elapsed()).as_millis();
        let pending = u128::from(self.bytes) * left / SHED_PAUSE.as_millis().max(1);
        u64::try_from(pending).unwrap_or(u64::MAX)
    }
}

/// Why the relay could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transports could not be set up.
    #[error("cannot set up the transports: {0}")]
    Transport(transport::Error),
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// As configured.
        address: Multiaddr,
        /// What the system says.
        cause: String,
    },
    /// A task panicked, or a listener failed.
    #[error("the relay has failed; see the log above")]
    Fault,
}

/// A relay that listens.
pub struct Node {
    swarm: Swarm<Boxed<Behaviour>>,
    quic: quic::Handle,
    gater: ConnectionGater,
    relay: Arc<Relay>,
    resources: Resources,
    lifecycle: Lifecycle,
    metrics: Metrics,
    /// As configured; empty means that those of the interfaces are announced.
    external: Vec<Multiaddr>,
    /// With the addresses on which each can be reached, link-local ones left out.
    listeners: Vec<(ListenerId, Vec<Multiaddr>)>,
    started: Instant,
    /// When to call the relay ready, unless it was.
    ready_at: Option<Instant>,
    statistics: Option<Interval>,
    /// What was freed last because memory was short.
    shed: Option<Shed>,
    drain: DrainConfig,
}

impl Node {
    /// Binds every listen address. Without `access`, everybody may reserve and connect.
    ///
    /// # Errors
    /// Names the address that cannot be bound and the cause.
    pub fn bind(
        config: &Config,
        identity: &Identity,
        access: Option<access::Setup>,
        lifecycle: Lifecycle,
        telemetry: &Telemetry,
    ) -> Result<Self, Error> {
        let metrics = telemetry.metrics().clone();
        let keypair = identity.keypair();
        let names = Pseudonyms::new(config.peer_ids, identity.pseudonym_key());
        let limits = config.limits.clone();
        let stats = &config.peer_stats;
        // Only whoever asks the admin endpoints is told.
        let peers = (stats.capacity > 0 && config.admin_address.is_some())
            .then(|| Peers::new(stats.capacity, stats.window));
        let access = access.map(|setup| {
            let relay = keypair.public().to_peer_id();
            setup.start(
                relay,
                config.limits.prefix_shares.clone(),
                &metrics,
                &lifecycle,
            ) as _
        });
        let relay = Relay::new(
            keypair.clone(),
            limits,
            names,
            lifecycle.clone(),
            metrics.clone(),
            peers,
            access,
        );
        let resources = Resources::of_process(config.memory, relay.limits());
        resources.log();
        metrics::observe(&telemetry.meter(), &metrics, &relay, &lifecycle, &resources);
        // Peers may seem to come from this machine or its network, where there is a proxy. A relay
        // that only this machine can reach has nobody to protect.
        let is_local = config.listen_addresses.iter().all(is_loopback);
        let dials = if is_local { Dials::Any } else { Dials::Global };
        let gater = ConnectionGater::new(
            config.admission.clone(),
            resources.clone(),
            metrics.clone(),
            relay.refusals().clone(),
        );
        let (transport, quic) =
            transport::build(keypair, dials, &gater, &metrics).map_err(Error::Transport)?;
        let behaviour = Boxed(Behaviour::new(
            &keypair.public(),
            &relay,
            &resources,
            &gater,
            &metrics,
        ));
        let settings = swarm::settings(&lifecycle, config.idle_timeout);
        let mut node = Self {
            swarm: Swarm::new(transport, behaviour, relay.peer_id(), settings),
            quic,
            gater,
            relay,
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

    /// What the node relays.
    pub fn relay(&self) -> &Arc<Relay> {
        &self.relay
    }

    /// What the node may use.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    fn listen(&mut self, addresses: &[Multiaddr]) -> Result<(), Error> {
        let has_ipv6 = addresses::has_ipv6();
        if !has_ipv6 && addresses.iter().any(is_any_ipv6) {
            info!("this machine has no IPv6: the relay listens on IPv4 alone");
        }
        for address in addresses.iter().filter(|a| has_ipv6 || !is_any_ipv6(a)) {
            let failed = |error: &dyn std::error::Error| Error::Listen {
                address: address.clone(),
                cause: innermost(error),
            };
            transport::check_exclusive(address).map_err(|error| failed(&error))?;
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

    /// Serves until the relay is told to stop, and drains.
    ///
    /// # Errors
    /// When a task panicked or a listener failed.
    pub async fn run(mut self) -> Result<(), Error> {
        let relay = Arc::clone(&self.relay);
        self.lifecycle
            .spawn_until_end("expiry", Arc::clone(&relay).expire_reservations());
        self.lifecycle
            .spawn_until_end("refusals", relay.refusals().clone().tell_rest());
        self.lifecycle
            .spawn_until_end("resources", self.resources.clone().watch());
        self.lifecycle.spawn_until_end(
            "scarcity",
            scarcity::monitor(
                Arc::clone(&relay),
                self.resources.clone(),
                self.gater.clone(),
            ),
        );
        if let Some(peers) = relay.peers() {
            self.lifecycle
                .spawn_until_end("peer statistics", Arc::clone(peers).sweep());
        }
        let (quic, lifecycle) = (self.quic.clone(), self.lifecycle.clone());
        let life = async {
            let _ = lifecycle.soft().run_until_cancelled(self.serve()).await;
            self.drain().await;
            self.close().await;
        };
        if AssertUnwindSafe(life).catch_unwind().await.is_err() {
            error!("the event loop panicked: the relay ends with exit code 1");
            lifecycle.fail();
            ending::close_rest(&quic, &lifecycle).await;
        }
        if lifecycle.is_faulty() {
            Err(Error::Fault)
        } else {
            Ok(())
        }
    }

    /// Serves for ever.
    async fn serve(&mut self) {
        loop {
            self.turn().await;
        }
    }

    /// Handles whatever happens next.
    async fn turn(&mut self) {
        tokio::select! {
            biased;
            () = tick(self.statistics.as_mut()) => self.log_statistics(),
            () = sleep_until(self.ready_at) => self.ready(),
            () = self.resources.over() => self.shed(),
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
                // All there are, or the first after none came in time.
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
                    "a listener failed: the relay drains and ends with exit code 1"
                );
                self.lifecycle.fail();
            }
            SwarmEvent::ConnectionClosed {
                cause: Some(error), ..
            } => debug!(%error, "a connection failed"),
            SwarmEvent::IncomingConnectionError { error, .. } => {
                debug!(%error, "an incoming connection failed");
                if let Some(reason) = swarm::denied(&error) {
                    self.gater.refused(reason);
                }
            }
            _ => {}
        }
        self.count_pending();
    }

    /// Frees memory, as it is short: the connections that hold most of it in buffers reset their streams
    /// or end, at first only those of address prefixes beyond their share, so that these do not keep new
    /// connections out. When memory has nearly run out, all connections are candidates.
    ///
    /// If no connection holds anything worth it then, idle ones are closed, the newest of address
    /// prefixes beyond their share first. Those that hold a reservation are spared as long as there are
    /// others, and until it is known what the last that were closed have given back.
    fn shed(&mut self) {
        let pending = self.shed.map_or(0, Shed::pending);
        let is_recent = self.shed.is_some_and(|shed| shed.at.elapsed() < SHED_PAUSE);
        let excess = self.resources.excess().saturating_sub(pending);
        if excess == 0 {
            return;
        }
        let has_run_out = self.resources.has_run_out();
        // Connections of others are relieved only when no prefix beyond its share has any left.
        let mut relieved = self.resources.relieve_beyond_share(excess);
        if relieved.connections == 0 && has_run_out {
            relieved = self.resources.relieve_connections(excess);
        }
        let freed = if relieved.connections > 0 {
            let connections = relieved.connections;
            warn!(
                connections,
                buffered_bytes = relieved.bytes,
                has_run_out,
                "memory is relieved: the connections that hold most of it lose streams or are closed"
            );
            for _ in 0..connections {
                self.gater.shed();
            }
            relieved.bytes
        } else if !has_run_out {
            return;
        } else {
            let count = usize::try_from(excess.div_ceil(IDLE_CONNECTION_BYTES));
            let count = count.unwrap_or(usize::MAX);
            let shares = self.resources.shares();
            let expendable = self.relay.expendable(count, !is_recent, shares);
            if expendable.is_empty() {
                return;
            }
            let connections = expendable.len();
            warn!(connections, "memory has run out: connections are closed");
            for connection in expendable {
                self.gater.shed();
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

    /// Closes the newest unused connection that holds a descriptor, of the prefix that is furthest
    /// beyond its share of them: one was refused because there are none left.
    fn free_descriptor(&mut self) {
        let beyond = self.resources.sockets_beyond_share();
        let has_descriptor = |connection: &Connection| connection.transport != Transport::Quic;
        let unused = self.relay.newest_unused_connection(&beyond, has_descriptor);
        if let Some(unused) = unused.filter(|unused| unused.evict()) {
            self.gater.evicted();
            let _ = self.swarm.close_connection(unused.id);
        }
    }

    /// Tells how many connections are on their way in. Only the swarm knows.
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

    /// Announces the configured addresses, or else those of the interfaces.
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
                "not all addresses fit into an answer: set RELAY_EXTERNAL_ADDRESSES to those that \
                 matter"
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
                "RELAY_EXTERNAL_ADDRESSES is not set: the relay announces the addresses of its own \
                 interfaces, which peers elsewhere may be unable to reach"
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

    /// `address` as people copy it: with the relay's peer id.
    fn full(&self, address: Multiaddr) -> Multiaddr {
        address.with(Protocol::P2p(self.relay.peer_id()))
    }

    /// Connections that are up or in their handshake.
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

/// What the system said, without the layers above it.
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

/// Never ends without an interval.
async fn tick(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Never ends without an instant.
async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
