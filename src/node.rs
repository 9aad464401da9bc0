//! The relay as a running node: the only owner of the swarm, and its event loop.
//!
//! Three acts: [`Node::run`] serves until it is told to stop, drains, and closes what is left.

mod addresses;
mod swarm;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm, core::transport::ListenerId, multiaddr::Protocol, ping, swarm::SwarmEvent,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout, timeout_at};
use tracing::{debug, info, warn};

use self::{
    addresses::{is_any_ipv6, is_link_local, join, own_addresses},
    swarm::{Behaviour, BehaviourEvent},
};
use crate::{
    config::{self, Config},
    drain::Schedule,
    identity::Identity,
    lifecycle::{Lifecycle, Phase},
    pseudonym::Pseudonyms,
    relay::{Relay, Statistics},
    transport::{self, quic},
};

/// How long to wait for the first address of every listener before the relay is called ready.
/// A listener on all interfaces may have none: `[::]` where no interface has an IPv6 address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after the last address no more of them are expected.
const ADDRESSES_SETTLED: Duration = Duration::from_millis(100);
/// How often a drain tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last words to the peers may take when the process ends.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

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
    /// A task panicked.
    #[error("a task panicked; see the log above")]
    Fault,
}

/// A relay that listens.
pub struct Node {
    swarm: Swarm<Behaviour>,
    quic: quic::Handle,
    relay: Arc<Relay>,
    lifecycle: Lifecycle,
    /// As configured; empty means that those of the interfaces are announced.
    external: Vec<Multiaddr>,
    /// With the addresses on which each can be reached, link-local ones left out.
    listeners: Vec<(ListenerId, Vec<Multiaddr>)>,
    started: Instant,
    /// When to call the relay ready, unless it was.
    ready_at: Option<Instant>,
    statistics: Option<Interval>,
    drain: config::Drain,
}

impl Node {
    /// Binds every listen address.
    ///
    /// # Errors
    /// Names the address that cannot be bound and the cause.
    pub fn bind(config: &Config, identity: &Identity, lifecycle: Lifecycle) -> Result<Self, Error> {
        let keypair = identity.keypair();
        let names = Pseudonyms::new(config.peer_ids, identity.pseudonym_key());
        let limits = config.limits.clone();
        let relay = Relay::new(keypair.clone(), limits, names, lifecycle.clone());
        let (transport, quic) = transport::build(keypair).map_err(Error::Transport)?;
        let behaviour = Behaviour::new(keypair.public(), &relay);
        let settings = swarm::settings(&lifecycle, config.idle_timeout);
        let mut node = Self {
            swarm: Swarm::new(transport, behaviour, relay.peer_id(), settings),
            quic,
            relay,
            lifecycle,
            external: config.external_addresses.clone(),
            listeners: Vec::new(),
            started: Instant::now(),
            ready_at: Some(Instant::now() + ADDRESS_TIMEOUT),
            statistics: config.stats_interval.map(ticks),
            drain: config.drain.clone(),
        };
        node.listen(&config.listen_addresses)?;
        Ok(node)
    }

    /// What the node relays.
    pub fn relay(&self) -> &Arc<Relay> {
        &self.relay
    }

    fn listen(&mut self, addresses: &[Multiaddr]) -> Result<(), Error> {
        let has_ipv6 = addresses::has_ipv6();
        if !has_ipv6 && addresses.iter().any(is_any_ipv6) {
            info!("this machine has no IPv6: the relay listens on IPv4 alone");
        }
        for address in addresses.iter().filter(|a| has_ipv6 || !is_any_ipv6(a)) {
            let id = self
                .swarm
                .listen_on(address.clone())
                .map_err(|error| Error::Listen {
                    address: address.clone(),
                    cause: innermost(&error),
                })?;
            self.listeners.push((id, Vec::new()));
        }
        Ok(())
    }

    /// Serves until the relay is told to stop, and drains.
    ///
    /// # Errors
    /// When a task panicked.
    pub async fn run(mut self) -> Result<(), Error> {
        self.lifecycle.spawn("expiry", {
            let (relay, hard) = (Arc::clone(&self.relay), self.lifecycle.hard().clone());
            async move {
                let _ = hard.run_until_cancelled(relay.expire_reservations()).await;
            }
        });
        let lifecycle = self.lifecycle.clone();
        let _ = lifecycle.soft().run_until_cancelled(self.serve()).await;
        self.drain().await;
        self.close().await;
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
                if self.ready_at.is_some() && self.listeners.iter().all(|(_, a)| !a.is_empty()) {
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
                warn!(addresses = join(addresses.iter()), %error, "a listener failed");
                self.announce();
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                connection,
                result: Err(error),
                ..
            })) if !matches!(error, ping::Failure::Unsupported) => {
                debug!(%error, "a peer does not answer: its connection is closed");
                // It may have gone by itself.
                let _ = self.swarm.close_connection(connection);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                debug!(%error, "an incoming connection failed");
            }
            _ => {}
        }
    }

    fn addresses_of(&mut self, listener: ListenerId) -> Option<&mut Vec<Multiaddr>> {
        self.listeners
            .iter_mut()
            .find(|(id, _)| *id == listener)
            .map(|(_, addresses)| addresses)
    }

    /// Announces the configured addresses, or else those of the interfaces.
    fn announce(&mut self) {
        let addresses = if self.external.is_empty() {
            own_addresses(self.listeners.iter().flat_map(|(_, a)| a))
        } else {
            self.external.clone()
        };
        let announced = self.relay.announce(addresses.clone());
        if announced < addresses.len() {
            warn!(
                announced,
                known = addresses.len(),
                "not all addresses fit into an answer: set RELAY_EXTERNAL_ADDRESSES to those that \
                 matter"
            );
        }
        let old: Vec<_> = self.swarm.external_addresses().cloned().collect();
        for address in old.iter().filter(|a| !addresses.contains(a)) {
            self.swarm.remove_external_address(address);
        }
        for address in addresses.into_iter().filter(|a| !old.contains(a)) {
            self.swarm.add_external_address(address);
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

    fn log_statistics(&self) {
        let Statistics {
            reservations,
            circuits,
            peers,
            bytes,
            ..
        } = self.relay.statistics();
        let uptime_seconds = self.started.elapsed().as_secs();
        info!(
            uptime_seconds,
            circuits,
            reservations,
            peers,
            bytes_relayed = bytes,
            "statistics"
        );
    }

    /// Lets everything that is open finish, until the deadline.
    async fn drain(&mut self) {
        let begun = Instant::now();
        let serves_until = begun + self.drain.delay;
        let deadline = serves_until + self.drain.timeout;
        self.lifecycle.enter(Phase::Draining {
            serves_until,
            deadline,
        });
        let before = self.relay.statistics();
        info!(
            circuits = before.circuits,
            reservations = before.reservations,
            delay_seconds = self.drain.delay.as_secs_f64(),
            timeout_seconds = self.drain.timeout.as_secs_f64(),
            "draining"
        );
        let hard = self.lifecycle.hard().clone();
        let _ = timeout_at(serves_until, hard.run_until_cancelled(self.serve())).await;

        // A newcomer is refused a connection, not a reservation: it tries the next relay at once.
        for (listener, _) in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        self.relay.drain(deadline.into_std());
        let mut moved = 0;
        let close_idle = hard.run_until_cancelled(self.close_idle(deadline, &mut moved));
        let _ = timeout_at(deadline, close_idle).await;

        // What is left is cut; each circuit's task says so before it ends.
        hard.cancel();
        self.circuits_over().await;
        let after = self.relay.statistics();
        info!(
            circuits_finished = after.circuits_finished - before.circuits_finished,
            circuits_cut = after.circuits_cut - before.circuits_cut,
            reservations_moved = moved,
            seconds = begun.elapsed().as_secs_f64(),
            "drained"
        );
    }

    /// Closes connections as their moment comes, until none is left.
    async fn close_idle(&mut self, deadline: Instant, moved: &mut usize) {
        let mut rng = rand::rng();
        let connections = self.relay.connections();
        let mut schedule = Schedule::new(connections, Instant::now(), self.drain.window, &mut rng);
        let mut progress = ticks(PROGRESS_INTERVAL);
        let mut bytes = self.relay.statistics().bytes;
        let relay = Arc::clone(&self.relay);
        while self
            .swarm
            .network_info()
            .connection_counters()
            .num_connections()
            > 0
        {
            for connection in schedule.due(Instant::now()) {
                *moved += usize::from(connection.is_holder());
                let _ = self.swarm.close_connection(connection.id);
            }
            tokio::select! {
                biased;
                _ = progress.tick() => {
                    let now = self.relay.statistics();
                    info!(
                        circuits = now.circuits,
                        reservations = now.reservations,
                        bytes_moved = now.bytes - bytes,
                        seconds_left =
                            deadline.saturating_duration_since(Instant::now()).as_secs(),
                        "drain goes on"
                    );
                    bytes = now.bytes;
                }
                () = sleep_until(schedule.next()) => {}
                () = relay.circuit_ended() => {}
                event = self.swarm.select_next_some() => {
                    if let SwarmEvent::ConnectionEstablished { connection_id, .. } = event {
                        // Its handshake had begun before the listeners were closed.
                        let late = relay.connections().into_iter().find(|c| c.id == connection_id);
                        if let Some(late) = late {
                            schedule.add(late, Instant::now(), &mut rng);
                        }
                    } else {
                        self.on_event(event);
                    }
                }
            }
        }
    }

    /// Waits, not for long, until every circuit that was cut is off the books.
    async fn circuits_over(&mut self) {
        let relay = Arc::clone(&self.relay);
        let over = async {
            while relay.statistics().circuits > 0 {
                tokio::select! {
                    () = relay.circuit_ended() => {}
                    event = self.swarm.select_next_some() => self.on_event(event),
                }
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, over).await;
    }

    /// Ends every circuit and connection, so that peers learn it now and not by a timeout.
    async fn close(mut self) {
        self.lifecycle.enter(Phase::Stopped);
        self.lifecycle.hard().cancel();
        for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self
                .swarm
                .network_info()
                .connection_counters()
                .num_connections()
                > 0
            {
                self.swarm.select_next_some().await;
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, closed).await;
        self.quic.close_all(0);
        let _ = timeout(CLOSE_TIMEOUT, self.quic.wait_idle()).await;
        let lifecycle = self.lifecycle.clone();
        drop(self);
        let _ = timeout(CLOSE_TIMEOUT, lifecycle.wait()).await;
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
