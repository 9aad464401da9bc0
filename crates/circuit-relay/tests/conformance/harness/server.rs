//! The two relays that every case runs against: this crate's, and libp2p-relay.

use std::{sync::Arc, time::Duration};

use circuit_relay::{BandwidthLimits, CircuitLimit, Limits, Relay, RequestRateLimits};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    identity::Keypair,
    multiaddr::Protocol,
    relay as libp2p_relay,
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
};
use lifecycle::Lifecycle;
use resource_manager::{Share, Shares};
use tokio::{task::JoinSet, time::timeout};

use super::{PATIENCE, net::Net};

/// The implementation of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `circuit_relay::Behaviour`.
    Ours,
    /// `libp2p::relay::Behaviour`.
    Libp2p,
}

/// The default limits of the relays in these cases.
pub fn limits() -> Limits {
    Limits {
        reservations: Some(1024),
        reservations_per_peer: Some(3),
        reservations_per_ip: None,
        reservation_ttl: Duration::from_secs(3600),
        circuits: Some(512),
        circuits_per_source: Some(5),
        circuits_per_target: Some(5),
        unused_circuit_timeout: None,
        idle_circuit_timeout: None,
        // All clients have the same address.
        prefix_shares: Shares::new(vec![("127.0.0.0/8".parse().unwrap(), Share::ALL)]),
        circuit: CircuitLimit {
            duration: Some(Duration::from_secs(3600)),
            bytes: Some(100_000_000),
        },
        reservation_rate: RequestRateLimits::default(),
        circuit_rate: RequestRateLimits::default(),
        bandwidth: BandwidthLimits::default(),
    }
}

/// A relay that runs in the background until dropped.
#[derive(Clone)]
pub struct Server {
    pub kind: Kind,
    pub net: Net,
    pub peer_id: PeerId,
    /// The address to dial, without the peer id.
    pub address: Multiaddr,
    pub limits: Limits,
    /// Only this crate's relay exposes state and tracked tasks.
    state: Option<(Arc<Relay>, Lifecycle)>,
    _tasks: Arc<JoinSet<()>>,
}

/// A relay that can also be a client of another relay.
#[derive(NetworkBehaviour)]
struct Behaviour<H: NetworkBehaviour> {
    hop: H,
    client: Toggle<libp2p_relay::client::Behaviour>,
}

impl Server {
    /// A relay that listens on `net` and announces its address.
    pub async fn start(kind: Kind, net: Net, limits: Limits) -> Self {
        Self::listen(kind, net, limits, net.any_port()).await
    }

    /// A relay of the same kind that only listens on a circuit of this one.
    pub async fn start_behind(&self) -> Self {
        let circuit = self.full_address().with(Protocol::P2pCircuit);
        Self::listen(self.kind, self.net, self.limits.clone(), circuit).await
    }

    async fn listen(kind: Kind, net: Net, limits: Limits, listen: Multiaddr) -> Self {
        let behind_relay = listen.iter().any(|part| part == Protocol::P2pCircuit);
        let mut state = None;
        let mut tasks = JoinSet::new();
        let (peer_id, address) = match kind {
            Kind::Ours => {
                let swarm = net.swarm(behind_relay, |keypair, client| {
                    let (relay, _) = state.insert(ours(keypair, &limits));
                    Behaviour {
                        hop: circuit_relay::Behaviour::new(Arc::clone(relay)),
                        client: client.into(),
                    }
                });
                run(swarm, listen, &mut tasks).await
            }
            Kind::Libp2p => {
                let swarm = net.swarm(behind_relay, |keypair, client| Behaviour {
                    hop: libp2ps(keypair, &limits),
                    client: client.into(),
                });
                run(swarm, listen, &mut tasks).await
            }
        };
        if let Some((relay, _)) = &state {
            relay.announce(std::slice::from_ref(&address));
            tasks.spawn(Arc::clone(relay).expire_reservations());
        }
        Self {
            kind,
            net,
            peer_id,
            address,
            limits,
            state,
            _tasks: Arc::new(tasks),
        }
    }

    /// The address to dial, with the peer id.
    pub fn full_address(&self) -> Multiaddr {
        self.address.clone().with_p2p(self.peer_id).unwrap()
    }

    /// Starts a drain that ends after this time. Only supported by this crate's relay.
    pub fn drain(&self, left: Duration) {
        if let Some((relay, _)) = &self.state {
            let deadline = tokio::time::Instant::now().into_std() + left;
            relay.limit_circuits_to(deadline);
            relay.drain(deadline);
        }
    }

    /// Waits until all resources of the clients are released. Otherwise, fails with the remaining ones.
    /// Only checks this crate's relay.
    pub async fn check_released(&self) -> Result<(), String> {
        let Some((state, tasks)) = &self.state else {
            return Ok(());
        };
        let clean = async {
            loop {
                let now = state.statistics();
                if (now.reservations, now.circuits, now.peers) == (0, 0, 0) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, clean)
            .await
            .map_err(|_| format!("the clients are gone, but {:?}", state.statistics()))?;
        if tasks.has_failed() {
            return Err("a task of the relay panicked".into());
        }
        Ok(())
    }
}

/// Listens, announces the address, and then runs the swarm.
async fn run<H>(
    mut swarm: Swarm<Behaviour<H>>,
    listen: Multiaddr,
    tasks: &mut JoinSet<()>,
) -> (PeerId, Multiaddr)
where
    H: NetworkBehaviour<ToSwarm: Send> + Send,
{
    swarm.listen_on(listen).unwrap();
    let listening = async {
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                return address;
            }
        }
    };
    let address = timeout(PATIENCE, listening).await.expect("it listens");
    swarm.add_external_address(address.clone());
    let peer_id = *swarm.local_peer_id();
    tasks.spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    (peer_id, address)
}

fn ours(keypair: &Keypair, limits: &Limits) -> (Arc<Relay>, Lifecycle) {
    let tasks = Lifecycle::new();
    let config = circuit_relay::Config {
        limits: limits.clone(),
        lifecycle: tasks.clone(),
        ..circuit_relay::Config::default()
    };
    let relay = Relay::new(keypair.clone(), config);
    (relay, tasks)
}

const AN_HOUR: Duration = Duration::from_secs(3600);

/// The corresponding limits of libp2p-relay.
fn libp2ps(keypair: &Keypair, limits: &Limits) -> libp2p_relay::Behaviour {
    let mut config = libp2p_relay::Config {
        max_reservations: limits.reservations.unwrap_or(usize::MAX),
        max_reservations_per_peer: limits.reservations_per_peer.unwrap_or(usize::MAX),
        reservation_duration: limits.reservation_ttl,
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits.circuits.unwrap_or(usize::MAX),
        max_circuits_per_peer: limits.circuits_per_source.unwrap_or(usize::MAX),
        max_circuit_duration: limits
            .circuit
            .duration
            .unwrap_or(Duration::from_secs(u32::MAX.into())),
        max_circuit_bytes: limits.circuit.bytes.unwrap_or(0),
        circuit_src_rate_limiters: Vec::new(),
    };
    // libp2p-relay refills a whole burst at once after an interval, which no case waits for.
    if let Some(rate) = limits.reservation_rate.per_peer {
        config = config.reservation_rate_per_peer(rate.burst, AN_HOUR);
    }
    if let Some(rate) = limits.reservation_rate.per_ip {
        config = config.reservation_rate_per_ip(rate.burst, AN_HOUR);
    }
    if let Some(rate) = limits.circuit_rate.per_peer {
        config = config.circuit_src_per_peer(rate.burst, AN_HOUR);
    }
    libp2p_relay::Behaviour::new(keypair.public().to_peer_id(), config)
}
