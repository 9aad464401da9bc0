//! Ordinary clients, which have to be served while other clients misbehave.

use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use tokio::time::timeout;

use crate::{
    PATIENCE,
    client::{Client, Security, assert_echoed},
};

/// Time limit for serving two ordinary clients, on slow and busy machines too. It is below the relay's
/// shortest timeout, so waiting for a timeout is detected.
const SERVED_WITHIN: Duration = Duration::from_secs(9);

/// Asserts that two new clients get a reservation and a circuit, and exchange data through it, in time.
pub async fn assert_served(address: &Multiaddr) {
    let took = time_to_serve(address).await;
    assert!(
        took <= SERVED_WITHIN,
        "ordinary clients are served after {took:?}, which is too slow"
    );
}

/// The same without a time limit. Returns the duration.
pub async fn time_to_serve(address: &Multiaddr) -> Duration {
    let began = Instant::now();
    // Boxed, because the futures of two whole clients are too large for the callers' stacks.
    let served = Box::pin(async {
        let mut target = Client::new(Security::Noise).await;
        let mut source = Client::new(Security::Noise).await;
        target.reserve(address).await.unwrap();
        let id = target.peer_id;
        let target = target.echo();
        source.connect(address, id).await.unwrap();
        let mut streams = source.streams.clone();
        let source = source.run();
        assert_echoed(&mut streams, id, &[7; 10_000]).await;
        source.abort();
        target.abort();
    });
    let served = timeout(PATIENCE, served).await;
    served.expect("ordinary clients are served");
    began.elapsed()
}
