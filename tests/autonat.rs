//! `AutoNAT` v2: the relay tells clients whether they can be reached, and is no scanner for them.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

mod support;

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io::ErrorKind,
    net::TcpListener,
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
use support::{
    bystander,
    forward::{Forward, header, loopback},
    process::Relay,
};
use tokio::time::timeout;

/// Claims that the client has these addresses.
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
    /// Tells the client that the relay speaks `AutoNAT`.
    identify: identify::Behaviour,
    candidates: Candidates,
}

/// A client that is connected to the relay from 127.0.0.1 and listens there itself.
struct Client {
    swarm: Swarm<Behaviour>,
    addresses: Vec<Multiaddr>,
    verdicts: HashMap<Multiaddr, bool>,
}

impl Client {
    async fn new(relay: &Multiaddr) -> Self {
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
        timeout(support::PATIENCE, ready).await.unwrap();
        Self {
            swarm,
            addresses,
            verdicts: HashMap::new(),
        }
    }

    /// Has the relay test `address`; gives whether it could be reached.
    async fn is_reachable(&mut self, address: &Multiaddr) -> bool {
        let behaviour = self.swarm.behaviour_mut();
        behaviour.candidates.0.push_back(address.clone());
        let verdict = async {
            loop {
                // The client also asks for the address that it is seen at, and never twice.
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
        timeout(support::PATIENCE, verdict).await.unwrap()
    }
}

/// A port of a program that does not speak libp2p.
fn listener(ip: &str) -> (TcpListener, Multiaddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = format!("/ip4/{ip}/tcp/{port}").parse().unwrap();
    (listener, address)
}

/// An address on which the client really listens is dialled and found reachable.
#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_addresses_are_tested() {
    let relay = Relay::start(&[]).await;
    for over in [relay.tcp(), relay.quic()] {
        let mut client = Client::new(&over).await;
        for address in client.addresses.clone() {
            assert!(client.is_reachable(&address).await, "{address} over {over}");
        }
    }
    relay.stop().await;
}

/// Behind a proxy that tells where its clients are, a client's own address is the one that is told.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_clients_own_addresses_are_tested() {
    let relay = Relay::start(&[("RELAY_PROXY_PROTOCOL_FROM", "127.0.0.2")]).await;
    let proxy = Forward::start(&relay.tcp(), loopback(2), header("127.0.0.1:4001")).await;
    let mut client = Client::new(&proxy.address()).await;
    for address in client.addresses.clone() {
        assert!(client.is_reachable(&address).await, "{address}");
    }
    let (at_the_proxy, address) = listener("127.0.0.2");
    assert!(!client.is_reachable(&address).await);
    assert_eq!(
        at_the_proxy.accept().unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    relay.stop().await;
}

/// An address on another machine is not dialled, whatever a client says.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_elses_addresses_are_dialled() {
    let relay = Relay::start(&[]).await;
    for over in [relay.tcp(), relay.quic()] {
        let mut client = Client::new(&over).await;
        let (other, address) = listener("127.0.0.2");
        assert!(!client.is_reachable(&address).await);
        let port = other.local_addr().unwrap().port();
        for address in [
            format!("/dns4/localhost/tcp/{port}"),
            format!("/ip6/::ffff:127.0.0.2/tcp/{port}"),
            format!("/ip4/127.0.0.2/tcp/{port}/ws"),
        ] {
            assert!(!client.is_reachable(&address.parse().unwrap()).await);
        }
        assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

        // The client's own address is dialled, whoever listens there: so this test can fail.
        let (own, address) = listener("127.0.0.1");
        let own = tokio::net::TcpListener::from_std(own).unwrap();
        let hang_up = async { drop(own.accept().await.unwrap()) };
        let (is_reachable, ()) = tokio::join!(client.is_reachable(&address), hang_up);
        assert!(!is_reachable);
        bystander::is_served(&over).await;
    }
    relay.stop().await;
}
