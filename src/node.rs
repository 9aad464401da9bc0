//! The relay as a running node: the only owner of the swarm, and its one event loop.

use std::{
    net::{Ipv6Addr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm, autonat, connection_limits,
    core::transport::ListenerId,
    identify,
    multiaddr::Protocol,
    ping,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tracing::{debug, info, warn};

use crate::{
    config::Config,
    dialback,
    identity::Identity,
    lifecycle::Tasks,
    pseudonym::Pseudonyms,
    relay::{self, Relay},
    transport::{self, quic},
};

/// Connections that one peer may have at once. A client needs one or two; a reconnecting one a
/// few more until its old ones are noticed to be dead.
const MAX_CONNECTIONS_PER_PEER: u32 = 16;
/// Connections that may be in their handshake at once.
const MAX_PENDING_CONNECTIONS: u32 = 1024;
/// Streams of one connection that may be in their protocol negotiation at once.
const MAX_NEGOTIATING_STREAMS: usize = 256;
/// How often a connection is asked whether the peer is still there, and how long it has to answer.
/// The second failure in a row closes the connection.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait for the first address of every listener before the relay is called ready.
/// A listener on all interfaces may have none: `[::]` where no interface has an IPv6 address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after the last address no more of them are expected.
const ADDRESSES_SETTLED: Duration = Duration::from_millis(100);
/// How long the last words to the peers may take when the process ends.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Why the relay could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transports could not be set up.
    #[error("cannot set up the transports: {0}")]
    Transport(Box<dyn std::error::Error + Send + Sync>),
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

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    dialback: dialback::Guard,
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    autonat: autonat::v2::server::Behaviour,
}

/// A relay that listens.
pub struct Node {
    swarm: Swarm<Behaviour>,
    quic: quic::Handle,
    relay: Arc<Relay>,
    tasks: Tasks,
    /// As configured; empty means that those of the interfaces are announced.
    external: Vec<Multiaddr>,
    /// With the addresses on which each can be reached, link-local ones left out.
    listeners: Vec<(ListenerId, Vec<Multiaddr>)>,
    started: Instant,
    /// When to call the relay ready, unless it was.
    ready_at: Option<Instant>,
    stats_interval: Option<Duration>,
}

impl Node {
    /// Binds every listen address.
    ///
    /// # Errors
    /// Names the address that cannot be bound and the cause.
    pub fn bind(config: &Config, identity: &Identity, tasks: Tasks) -> Result<Self, Error> {
        let keypair = identity.keypair();
        let names = Pseudonyms::new(config.peer_ids, identity.pseudonym_key());
        let relay = Relay::new(keypair.clone(), config.limits.clone(), names, tasks.clone());
        let (transport, quic) = transport::build(keypair).map_err(Error::Transport)?;
        let behaviour = Behaviour {
            limits: connection_limits::Behaviour::new(
                connection_limits::ConnectionLimits::default()
                    .with_max_pending_incoming(Some(MAX_PENDING_CONNECTIONS))
                    .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER)),
            ),
            dialback: dialback::Guard::new(Arc::clone(&relay)),
            relay: relay::Behaviour::new(Arc::clone(&relay)),
            // No signed peer record: clients that do not know its legacy form drop the message.
            identify: identify::Behaviour::new(
                identify::Config::new("ipfs/0.1.0".to_owned(), keypair.public())
                    .with_agent_version(concat!("descord-relay/", env!("CARGO_PKG_VERSION")).into())
                    .with_hide_listen_addrs(true)
                    .with_push_listen_addr_updates(true)
                    .with_cache_size(0),
            ),
            ping: ping::Behaviour::new(
                ping::Config::new()
                    .with_interval(PING_INTERVAL)
                    .with_timeout(PING_TIMEOUT),
            ),
            autonat: autonat::v2::server::Behaviour::default(),
        };
        let executor = {
            let tasks = tasks.clone();
            move |future| tasks.spawn("connection", future)
        };
        let settings = libp2p::swarm::Config::with_executor(executor)
            .with_idle_connection_timeout(config.idle_timeout)
            .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS);
        let mut node = Self {
            swarm: Swarm::new(transport, behaviour, relay.peer_id(), settings),
            quic,
            relay,
            tasks,
            external: config.external_addresses.clone(),
            listeners: Vec::new(),
            started: Instant::now(),
            ready_at: Some(Instant::now() + ADDRESS_TIMEOUT),
            stats_interval: config.stats_interval,
        };
        node.listen(&config.listen_addresses)?;
        Ok(node)
    }

    fn listen(&mut self, addresses: &[Multiaddr]) -> Result<(), Error> {
        let has_ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
        let any_ipv6 = Protocol::Ip6(Ipv6Addr::UNSPECIFIED);
        if !has_ipv6
            && addresses
                .iter()
                .any(|a| a.iter().next() == Some(any_ipv6.clone()))
        {
            info!("this machine has no IPv6; the relay listens on IPv4 alone");
        }
        for address in addresses {
            if !has_ipv6 && address.iter().next() == Some(any_ipv6.clone()) {
                continue;
            }
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

    /// Serves until the relay is told to stop.
    ///
    /// # Errors
    /// When a task panicked.
    pub async fn run(mut self) -> Result<(), Error> {
        self.tasks.spawn("expiry", {
            let (relay, hard) = (Arc::clone(&self.relay), self.tasks.hard().clone());
            async move {
                let _ = hard.run_until_cancelled(relay.expire_reservations()).await;
            }
        });
        let mut statistics = self.stats_interval.map(ticks);
        let soft = self.tasks.soft().clone();
        loop {
            tokio::select! {
                biased;
                () = soft.cancelled() => break,
                () = tick(statistics.as_mut()) => self.log_statistics(),
                () = sleep_until(self.ready_at) => self.ready(),
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
        let tasks = self.tasks.clone();
        self.close().await;
        if tasks.is_faulty() {
            Err(Error::Fault)
        } else {
            Ok(())
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
                reason,
                ..
            } => {
                let addresses = self
                    .addresses_of(listener_id)
                    .map(std::mem::take)
                    .unwrap_or_default();
                if let Err(error) = reason {
                    warn!(addresses = join(addresses.iter()), %error, "a listener failed");
                }
                self.announce();
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(event),
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

    fn on_ping(
        &mut self,
        ping::Event {
            connection, result, ..
        }: ping::Event,
    ) {
        match result {
            Ok(_) | Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                debug!(%error, "a peer does not answer; its connection is closed");
                self.close_connection(connection);
            }
        }
    }

    fn close_connection(&mut self, connection: ConnectionId) {
        // It may have gone by itself.
        let _ = self.swarm.close_connection(connection);
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
                configured = addresses.len(),
                "not all addresses fit into an answer; set RELAY_EXTERNAL_ADDRESSES to the ones \
                 that matter"
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
        let addresses = self.relay.addresses();
        if addresses.is_empty() {
            warn!(
                "the relay has no address to announce and refuses every reservation: set \
                 RELAY_EXTERNAL_ADDRESSES"
            );
        } else if self.external.is_empty() {
            warn!(
                "RELAY_EXTERNAL_ADDRESSES is not set: the relay announces the addresses of its own \
                 interfaces, which peers elsewhere may be unable to reach"
            );
        }
        let announced = join(addresses.iter());
        let listening: Vec<_> = self
            .listeners
            .iter()
            .flat_map(|(_, a)| a)
            .map(|a| self.full(a.clone()))
            .collect();
        info!(
            peer_id = %self.relay.peer_id(),
            addresses = join(listening.iter()),
            announced,
            "relay ready"
        );
    }

    /// `address` as people copy it: with the relay's peer id.
    fn full(&self, address: Multiaddr) -> Multiaddr {
        address.with(Protocol::P2p(self.relay.peer_id()))
    }

    fn log_statistics(&self) {
        let statistics = self.relay.statistics();
        info!(
            uptime_seconds = self.started.elapsed().as_secs(),
            circuits = statistics.circuits,
            reservations = statistics.reservations,
            bytes_relayed = statistics.bytes,
            "statistics"
        );
    }

    /// Ends every circuit and connection, so that peers learn it now and not by a timeout.
    async fn close(mut self) {
        self.tasks.hard().cancel();
        for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, closed).await;
        self.quic.close_all(0);
        let _ = timeout(CLOSE_TIMEOUT, self.quic.wait_idle()).await;
        let tasks = self.tasks.clone();
        drop(self);
        let _ = timeout(CLOSE_TIMEOUT, tasks.wait()).await;
    }
}

/// The addresses among `listening` that another machine may dial; loopback only when there are no
/// others.
fn own_addresses<'a>(listening: impl Iterator<Item = &'a Multiaddr>) -> Vec<Multiaddr> {
    let (loopback, others): (Vec<_>, Vec<_>) = listening.cloned().partition(is_loopback);
    if others.is_empty() { loopback } else { others }
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

fn is_link_local(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_link_local(),
        Some(Protocol::Ip6(ip)) => ip.is_unicast_link_local(),
        _ => false,
    }
}

fn join<'a>(addresses: impl Iterator<Item = &'a Multiaddr>) -> String {
    addresses
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
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

/// Never ends without an instant.
async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn tick(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}
