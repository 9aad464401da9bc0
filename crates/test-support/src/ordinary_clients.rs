//! Ordinary clients, which are served as if no other client misbehaved.

use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use tokio::time::timeout;

use crate::{
    PATIENCE,
    client::{Client, Security, is_echoed},
};

/// How long two ordinary clients may take to be served, on a slow and busy machine as well: less than
/// the relay's shortest deadline, so that a service that waits for one shows.
const SERVED_WITHIN: Duration = Duration::from_secs(9);

/// Two new clients get a reservation, a circuit, and their bytes through it and back.
pub async fn assert_served(address: &Multiaddr) {
    let took = time_to_serve(address).await;
    assert!(
        took <= SERVED_WITHIN,
        "ordinary clients are served as if nobody else were there, and not in {took:?}"
    );
}

/// The same, however long it takes, and how long that was.
pub async fn time_to_serve(address: &Multiaddr) -> Duration {
    let began = Instant::now();
    // Two whole clients are too large for the stacks of those who wait for them.
    let served = Box::pin(async {
        let mut target = Client::new(Security::Noise).await;
        let mut source = Client::new(Security::Noise).await;
        target.reserve(address).await.unwrap();
        let id = target.peer_id;
        let target = target.echo();
        source.connect(address, id).await.unwrap();
        let mut streams = source.streams.clone();
        let source = source.run();
        is_echoed(&mut streams, id, &[7; 10_000]).await;
        source.abort();
        target.abort();
    });
    let served = timeout(PATIENCE, served).await;
    served.expect("ordinary clients are served");
    began.elapsed()
}
