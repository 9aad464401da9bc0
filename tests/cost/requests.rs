//! How often the relay asks for memory, and calls the system, for a renewal and for a circuit that
//! is opened and closed.

use libp2p::Multiaddr;

use crate::{Channel, Client, Pings, allocations::allocations, clients::finish, syscalls::calls};

/// Requests before, so that buffers and tables have grown; and those that are counted. Together they
/// stay within the burst of renewals that are not delayed.
const BEFORE: usize = 10;
const COUNTED: usize = 50;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Request {
    Renewal,
    Circuit,
}

/// The most that one request may cost.
struct Most {
    allocations: u64,
    calls: usize,
}

/// Two clients with a reservation each.
struct Pair(Client, Client);

impl Pair {
    async fn new(channel: Channel, relay: Multiaddr) -> Self {
        let client = || Client::new(channel, relay.clone(), Pings::Answered);
        Self(client().await.unwrap(), client().await.unwrap())
    }

    /// Asks so often, one after the other.
    async fn ask(&mut self, request: Request, times: usize) {
        let Self(source, target) = self;
        for _ in 0..times {
            match request {
                Request::Renewal => source.reserve().await.unwrap(),
                Request::Circuit => finish(source.connect(target).await.unwrap()).await.unwrap(),
            }
        }
    }
}

async fn assert_costs_at_most(channel: Channel, request: Request, most: Most) {
    let asking = |times| {
        allocations(channel, async move |relay| {
            Pair::new(channel, relay).await.ask(request, times).await;
        })
    };
    let (before, after) = (asking(BEFORE).await, asking(BEFORE + COUNTED).await);
    let allocated = after.count_total.saturating_sub(before.count_total) / COUNTED as u64;
    println!("{}, {request:?}: {allocated} allocations", channel.name());
    assert!(allocated > 0, "nothing was counted");
    assert!(allocated <= most.allocations, "{allocated} allocations");

    let begin = async |relay| {
        let mut pair = Pair::new(channel, relay).await;
        pair.ask(request, BEFORE).await;
        pair
    };
    let counted = calls(channel, begin, async |pair| {
        pair.ask(request, COUNTED).await;
    });
    let Some(total) = counted.await else {
        return;
    };
    let called = total / COUNTED;
    println!("{}, {request:?}: {called} calls", channel.name());
    assert!(called > 0, "hardly anything was counted");
    assert!(called <= most.calls, "{called} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_over_noise() {
    // Counted: 46 allocations, 4 to 5 calls.
    let most = Most {
        allocations: 60,
        calls: 6,
    };
    assert_costs_at_most(Channel::Noise, Request::Renewal, most).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_over_quic() {
    // Counted: 49 allocations, 8 calls.
    let most = Most {
        allocations: 64,
        calls: 14,
    };
    assert_costs_at_most(Channel::Quic, Request::Renewal, most).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_over_noise() {
    // Counted: 72 allocations, 12 calls.
    let most = Most {
        allocations: 92,
        calls: 17,
    };
    assert_costs_at_most(Channel::Noise, Request::Circuit, most).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_over_quic() {
    // Counted: 87 allocations, 17 calls. Three are boxes of the observers of the request and the circuit.
    let most = Most {
        allocations: 104,
        calls: 31,
    };
    assert_costs_at_most(Channel::Quic, Request::Circuit, most).await;
}
