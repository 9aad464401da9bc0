//! A relay within a plain libp2p swarm, on the transports of libp2p.
//!
//! ```sh
//! cargo run -p circuit-relay --example embedded -- /ip4/127.0.0.1/tcp/4001
//! ```
//!
//! Prints its addresses and reports. SIGINT or SIGTERM starts a drain, in which open circuits may
//! finish; a second signal ends it.

use std::{env, error::Error, pin::pin, sync::Arc, time::Duration};

use circuit_relay::{
    Behaviour as Relaying, CircuitLimit, Config, Denied, Limits, Observer, Relay, RequestKind,
    ledger::ReservationEndCause,
};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::time::{Instant, timeout_at};

/// How long open circuits may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The protocols of the program.
#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: Relaying,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// Prints some of the reports.
#[derive(Debug)]
struct Printer;

impl Observer for Printer {
    fn reservation_accepted(&self, peer: PeerId, renewed_after: Option<Duration>, _: Duration) {
        let granted = renewed_after.map_or("granted", |_| "renewed");
        println!("reservation of {peer}: {granted}");
    }

    fn reservation_ended(&self, peer: PeerId, cause: ReservationEndCause, lasted: Duration) {
        println!(
            "reservation of {peer} ended after {lasted:.1?}: {}",
            cause.as_str()
        );
    }

    fn request_denied(&self, peer: PeerId, request: RequestKind, denied: &Denied) {
        println!("{} of {peer} denied: {}", request.as_str(), denied.reason);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let keypair = Keypair::generate_ed25519();
    let relay = Relay::new(
        keypair.clone(),
        Config {
            limits: Limits {
                circuit: CircuitLimit {
                    duration: Some(Duration::from_secs(120)),
                    bytes: Some(1 << 20),
                },
                ..Limits::default()
            },
            observer: Arc::new(Printer),
            ..Config::default()
        },
    );
    let lifecycle = relay.lifecycle().clone();
    lifecycle.spawn_cancellable("expiry", Arc::clone(&relay).expire_reservations());

    let mut swarm = swarm(keypair, &relay)?;
    let mut addresses: Vec<String> = env::args().skip(1).collect();
    if addresses.is_empty() {
        addresses = vec![
            "/ip4/0.0.0.0/tcp/0".into(),
            "/ip4/0.0.0.0/udp/0/quic-v1".into(),
        ];
    }
    for address in addresses {
        swarm.listen_on(address.parse()?)?;
    }

    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut drain = pin!(drain(&relay));
    loop {
        tokio::select! {
            event = swarm.select_next_some() => {
                if let SwarmEvent::NewListenAddr { address, .. } = event {
                    announce(&mut swarm, &relay, address);
                }
            }
            Some(_) = signals.next() => lifecycle.stop(),
            () = &mut drain => return Ok(()),
        }
    }
}

fn swarm(keypair: Keypair, relay: &Arc<Relay>) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_quic()
        .with_behaviour(|keypair| Behaviour {
            relay: Relaying::new(Arc::clone(relay)),
            identify: identify::Behaviour::new(identify::Config::new(
                "/embedded-relay/1.0.0".into(),
                keypair.public(),
            )),
            ping: ping::Behaviour::default(),
        })?
        .build();
    Ok(swarm)
}

/// Announces all addresses, this one included. A program behind NAT or a load balancer announces its
/// external addresses instead.
fn announce(swarm: &mut Swarm<Behaviour>, relay: &Relay, address: Multiaddr) {
    swarm.add_external_address(address);
    let addresses: Vec<_> = swarm.external_addresses().cloned().collect();
    relay.announce(&addresses);
    for address in &*relay.addresses() {
        println!("{address}");
    }
}

/// Completes when the relay may end: after the drain token, all circuits have ended, or they are
/// reset after [`DRAIN_TIMEOUT`] or by the shutdown token.
async fn drain(relay: &Relay) {
    let lifecycle = relay.lifecycle();
    lifecycle.drain_token().cancelled().await;
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    relay.drain(deadline.into_std());
    println!("draining: {} circuits", relay.open_circuits());
    let circuits_end = async {
        while relay.open_circuits() > 0 {
            relay.circuit_ended().await;
        }
    };
    let shutdown = lifecycle.shutdown_token();
    let _ = timeout_at(deadline, shutdown.run_until_cancelled(circuits_end)).await;
    shutdown.cancel();
    lifecycle.wait().await;
}
