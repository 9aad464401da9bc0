//! `AutoNAT` clients, which let the relay test whether their addresses are reachable.

pub mod v1;
pub mod v2;

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder,
    autonat::v2::client::{self, Config},
    core::{Endpoint, transport::PortUse},
    identify, noise,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, SwarmEvent, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
    tcp, yamux,
};
use tokio::time::timeout;

use crate::PATIENCE;

/// A behaviour that announces these addresses as external address candidates.
#[derive(Default)]
struct Candidates(VecDeque<Multiaddr>);

impl NetworkBehaviour for Candidates {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        match self.0.pop_front() {
            Some(address) => Poll::Ready(ToSwarm::NewExternalAddrCandidate(address)),
            None => Poll::Pending,
        }
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    autonat: client::Behaviour,
    /// Detects that the relay supports `AutoNAT`.
    identify: identify::Behaviour,
    candidates: Candidates,
}

/// A client at 127.0.0.1 that listens and is connected to the relay.
pub struct Client {
    swarm: Swarm<Behaviour>,
    pub addresses: Vec<Multiaddr>,
    verdicts: HashMap<Multiaddr, bool>,
}

impl Client {
    pub async fn new(relay: &Multiaddr) -> Self {
        let often = Config::default().with_probe_interval(Duration::from_millis(100));
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_quic()
            .with_behaviour(|key| Behaviour {
                autonat: client::Behaviour::new(rand::make_rng(), often),
                identify: identify::Behaviour::new(identify::Config::new(
                    "ipfs/0.1.0".into(),
                    key.public(),
                )),
                candidates: Candidates::default(),
            })
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
            .build();
        for address in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
            swarm.listen_on(address.parse().unwrap()).unwrap();
        }
        swarm.dial(relay.clone()).unwrap();
        let mut addresses = Vec::new();
        let mut is_connected = false;
        let ready = async {
            while addresses.len() < 2 || !is_connected {
                match swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { address, .. } => addresses.push(address),
                    SwarmEvent::ConnectionEstablished { .. } => is_connected = true,
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, ready).await.unwrap();
        Self {
            swarm,
            addresses,
            verdicts: HashMap::new(),
        }
    }

    /// Lets the relay test `addresses`. Repeats requests without a verdict.
    pub async fn ask(&mut self, addresses: impl IntoIterator<Item = Multiaddr>) {
        let candidates = &mut self.swarm.behaviour_mut().candidates.0;
        candidates.extend(addresses);
        loop {
            self.swarm.select_next_some().await;
        }
    }

    /// Lets the relay test `address`. Returns whether it is reachable.
    pub async fn is_reachable(&mut self, address: &Multiaddr) -> bool {
        let behaviour = self.swarm.behaviour_mut();
        behaviour.candidates.0.push_back(address.clone());
        let verdict = async {
            loop {
                // The client also requests a test of its observed address, once.
                if let Some(verdict) = self.verdicts.get(address) {
                    return *verdict;
                }
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::Behaviour(BehaviourEvent::Autonat(event)) = event {
                    let verdict = event.result.is_ok();
                    self.verdicts.insert(event.tested_addr, verdict);
                }
            }
        };
        timeout(PATIENCE, verdict).await.unwrap()
    }
}
