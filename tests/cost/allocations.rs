//! Number and size of the relay's allocations for each forwarded MiB.

use std::{
    num::NonZeroU32,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use allocation_counter::AllocationInfo;
use circuit_relay::{Behaviour, CircuitLimit, Limits, Relay, RequestRateLimits};
use descord_relay::{
    metrics::Metrics,
    pseudonym::{PeerIds, Pseudonyms},
    relay_observer::RelayObserver,
};
use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm,
    identity::Keypair,
    multiaddr::Protocol,
    swarm::{Config, SwarmEvent},
};
use lifecycle::Lifecycle;
use rate_limits::{LogThrottle, Rate, Unit};
use tokio_util::sync::CancellationToken;
use transports::{ConnectionGater, DialScope};

use crate::{Channel, Circuit};

/// MiB forwarded before the measurement, so that windows and buffers have grown; and MiB measured.
const BEFORE: usize = 8;
const COUNTED: usize = 32;

/// Exceeds the request rates of all tests.
const HIGH_RATE: Rate = Rate {
    burst: NonZeroU32::new(Rate::MAX).unwrap(),
    refill: NonZeroU32::new(Rate::MAX).unwrap(),
    per: Unit::Second,
};

/// Runs a relay on this thread until `end`, and sends its address.
fn serve(channel: Channel, address: &mpsc::Sender<Multiaddr>, end: &CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(end.run_until_cancelled(async {
        let key = Keypair::generate_ed25519();
        let lifecycle = Lifecycle::new();
        // Enabled, but not reached by the many concurrent requests.
        let rate = RequestRateLimits {
            per_peer: Some(HIGH_RATE),
            per_ip: Some(HIGH_RATE),
        };
        let limits = Limits {
            circuit: CircuitLimit::default(),
            // All clients have the same address.
            reservations: None,
            reservations_per_ip: None,
            reservation_rate: rate,
            circuit_rate: rate,
            ..Limits::default()
        };
        let observer = RelayObserver::new(
            Pseudonyms::new(PeerIds::Pseudonym, b"a key"),
            Metrics::noop(),
            None,
            LogThrottle::new(),
        );
        let relay = Relay::new(
            key.clone(),
            circuit_relay::Config {
                limits,
                observer: Arc::new(observer),
                lifecycle: lifecycle.clone(),
                ..circuit_relay::Config::default()
            },
        );
        let peer_id = relay.peer_id();
        let (transport, _quic) = transports::build(
            &key,
            None,
            DialScope::Any,
            &ConnectionGater::unlimited(),
            &transports::observer::NoObserver::shared(),
        )
        .unwrap();
        let settings = Config::with_executor(move |task| lifecycle.spawn("connection", task))
            .with_idle_connection_timeout(Duration::from_secs(600));
        let mut swarm = Swarm::new(transport, Behaviour::new(relay.clone()), peer_id, settings);
        let listen = match channel {
            Channel::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
            Channel::Noise | Channel::Tls => "/ip4/127.0.0.1/tcp/0",
        };
        swarm.listen_on(listen.parse().unwrap()).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address: at, .. } = swarm.select_next_some().await {
                relay.announce(std::slice::from_ref(&at));
                address.send(at.with(Protocol::P2p(peer_id))).unwrap();
            }
        }
    }));
}

/// The allocations of a relay from start to exit, with the load `used`.
pub(crate) async fn allocations(
    channel: Channel,
    used: impl AsyncFnOnce(Multiaddr),
) -> AllocationInfo {
    let (sender, address) = mpsc::channel();
    let end = CancellationToken::new();
    let relay = thread::spawn({
        let end = end.clone();
        move || allocation_counter::measure(|| serve(channel, &sender, &end))
    });
    let address = address.recv().unwrap();
    used(address).await;
    end.cancel();
    relay.join().unwrap()
}

/// Upper bounds for each MiB: number of allocations, and allocated bytes.
async fn assert_allocates_at_most(channel: Channel, count: u64, bytes: u64) {
    let carrying = |mib| {
        allocations(channel, async move |relay| {
            Circuit::open(channel, &relay).await.carry(mib).await;
        })
    };
    let before = carrying(BEFORE).await;
    let after = carrying(BEFORE + COUNTED).await;
    let per_mib = |after: u64, before: u64| after.saturating_sub(before) / COUNTED as u64;
    let counted = per_mib(after.count_total, before.count_total);
    let allocated = per_mib(after.bytes_total, before.bytes_total);
    println!(
        "{}: {counted} allocations, {allocated} bytes per MiB",
        channel.name()
    );
    assert!(counted <= count, "{counted} allocations per MiB");
    assert!(allocated <= bytes, "{allocated} bytes allocated per MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_noise() {
    // Measured: 91 to 169 allocations, more on a busy machine, where reads are shorter; 1.12 to 1.16 MB,
    // because received buffers are sent unchanged.
    assert_allocates_at_most(Channel::Noise, 260, 1_500_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    // Measured: 373 to 428 allocations, 3.30 to 3.34 MB.
    assert_allocates_at_most(Channel::Tls, 600, 4_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quic() {
    // Measured: 333 to 433 allocations, 2.29 to 2.87 MB.
    assert_allocates_at_most(Channel::Quic, 640, 3_700_000).await;
}
