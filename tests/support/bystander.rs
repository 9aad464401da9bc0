//! Clients that do nothing wrong, and must not notice those that do.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Multiaddr;
use tokio::time::timeout;

use super::client::{Client, Security, TEST_PROTOCOL};

/// How long two ordinary clients may take to be served on a busy machine. An idle one needs a
/// tenth of it.
const SERVED_WITHIN: Duration = Duration::from_secs(3);

/// Two new clients get a reservation, a circuit, and their bytes through it and back.
pub async fn is_served(address: &Multiaddr) {
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
        let mut stream = streams.open_stream(id, TEST_PROTOCOL).await.unwrap();
        let sent = [7; 10_000];
        stream.write_all(&sent).await.unwrap();
        stream.close().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, sent);
        source.abort();
        target.abort();
    });
    let served = timeout(SERVED_WITHIN, served).await;
    served.expect("ordinary clients are served as if nobody else were there");
}
