//! Swarms over TCP and Noise, with `libp2p`'s multiplexer as the remote.

use futures::{StreamExt as _, future::select};
use libp2p::{
    Swarm, SwarmBuilder, identify,
    identity::PublicKey,
    noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp,
};

use super::*;

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

impl Behaviour {
    fn new(key: PublicKey) -> Self {
        Self {
            identify: identify::Behaviour::new(identify::Config::new("/test/1".to_owned(), key)),
            ping: ping::Behaviour::default(),
        }
    }
}

macro_rules! swarm {
    ($yamux:expr) => {
        SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, $yamux)
            .unwrap()
            .with_behaviour(|key| Behaviour::new(key.public()))
            .unwrap()
            .build()
    };
}

/// The protocols that have succeeded with the other swarm.
#[derive(Default)]
struct Progress {
    identified: bool,
    pinged: bool,
}

impl Progress {
    fn record(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                ..
            })) => self.identified = true,
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Error {
                error,
                ..
            })) => panic!("identify failed: {error}"),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { result, .. })) => {
                result.unwrap();
                self.pinged = true;
            }
            SwarmEvent::ConnectionClosed { cause, .. } => panic!("closed: {cause:?}"),
            _ => {}
        }
    }

    fn is_complete(&self) -> bool {
        self.identified && self.pinged
    }
}

async fn meet(mut listener: Swarm<Behaviour>, mut dialer: Swarm<Behaviour>) {
    listener
        .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = soon(listener.select_next_some()).await {
            break address;
        }
    };
    dialer.dial(address).unwrap();
    let (mut of_listener, mut of_dialer) = (Progress::default(), Progress::default());
    while !(of_listener.is_complete() && of_dialer.is_complete()) {
        match soon(select(listener.next(), dialer.next())).await {
            Either::Left((event, _)) => of_listener.record(event.unwrap()),
            Either::Right((event, _)) => of_dialer.record(event.unwrap()),
        }
    }
}

#[tokio::test]
async fn swarms_identify_and_ping_each_other() {
    meet(
        swarm!(Config::default),
        swarm!(libp2p::yamux::Config::default),
    )
    .await;
    meet(
        swarm!(libp2p::yamux::Config::default),
        swarm!(Config::default),
    )
    .await;
    meet(swarm!(Config::default), swarm!(Config::default)).await;
}
