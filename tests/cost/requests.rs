//! Allocations and system calls of the relay for a renewal, and for a circuit that is opened and closed.

use libp2p::Multiaddr;

use crate::{Channel, Client, Pings, allocations::allocations, clients::finish, syscalls::calls};

/// Number of requests before the measurement, so that buffers and tables have grown; and number of
/// measured requests. Together they stay within the burst of renewals that are not delayed.
const BEFORE: usize = 10;
const COUNTED: usize = 50;

/// The kind of request.
#[derive(Clone, Copy, Debug)]
enum Request {
    Renewal,
    Circuit,
}

/// Upper bounds for one request.
struct Bounds {
    allocations: u64,
    calls: usize,
}

/// Two reserved clients.
struct Pair(Client, Client);

impl Pair {
    async fn new(channel: Channel, relay: Multiaddr) -> Self {
        let client = || Client::new(channel, relay.clone(), Pings::Answered);
        Self(client().await.unwrap(), client().await.unwrap())
    }

    /// Sends this many requests, one after the other.
    async fn send_requests(&mut self, request: Request, times: usize) {
        let Self(source, target) = self;
        for _ in 0..times {
            match request {
                Request::Renewal => source.reserve().await.unwrap(),
                Request::Circuit => finish(source.connect(target).await.unwrap()).await.unwrap(),
            }
        }
    }
}

async fn assert_costs_at_most(channel: Channel, request: Request, bounds: Bounds) {
    let requests = |times| {
        allocations(channel, async move |relay| {
            Pair::new(channel, relay)
                .await
                .send_requests(request, times)
                .await;
        })
    };
    let (before, after) = (requests(BEFORE).await, requests(BEFORE + COUNTED).await);
    let allocated = after.count_total.saturating_sub(before.count_total) / COUNTED as u64;
    println!("{}, {request:?}: {allocated} allocations", channel.name());
    assert!(allocated > 0, "no allocations were measured");
    assert!(allocated <= bounds.allocations, "{allocated} allocations");

    let begin = async |relay| {
        let mut pair = Pair::new(channel, relay).await;
        pair.send_requests(request, BEFORE).await;
        pair
    };
    let counted = calls(channel, begin, async |pair| {
        pair.send_requests(request, COUNTED).await;
    });
    let Some(total) = counted.await else {
        return;
    };
    let called = total / COUNTED;
    println!("{}, {request:?}: {called} calls", channel.name());
    assert!(called > 0, "too few calls were measured");
    assert!(called <= bounds.calls, "{called} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_over_noise() {
    // Measured: 46 allocations, 4 to 5 calls.
    let bounds = Bounds {
        allocations: 60,
        calls: 6,
    };
    assert_costs_at_most(Channel::Noise, Request::Renewal, bounds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_over_quic() {
    // Measured: 49 allocations, 8 calls.
    let bounds = Bounds {
        allocations: 64,
        calls: 14,
    };
    assert_costs_at_most(Channel::Quic, Request::Renewal, bounds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_over_noise() {
    // Measured: 72 allocations, 12 calls.
    let bounds = Bounds {
        allocations: 92,
        calls: 17,
    };
    assert_costs_at_most(Channel::Noise, Request::Circuit, bounds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_over_quic() {
    // Measured: 87 allocations, 17 calls. Three are boxed observers of the request and the circuit.
    let bounds = Bounds {
        allocations: 104,
        calls: 31,
    };
    assert_costs_at_most(Channel::Quic, Request::Circuit, bounds).await;
}
