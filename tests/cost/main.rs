//! The cost of a forwarded byte and of a request in countable quantities, so that regressions are also
//! detected on a busy machine: allocations, system calls, context switches. Each bound is the measured
//! value and a margin. Lower it when a change reduces the cost.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "tests fail loudly, and have no drain"
)]
#![cfg(target_os = "linux")]

mod allocations;
#[path = "../../benches/comparison/clients.rs"]
#[expect(dead_code, reason = "the benchmark needs more of it")]
mod clients;
mod idle;
mod memory;
#[path = "../../benches/comparison/relay.rs"]
#[expect(dead_code, reason = "the benchmark needs more of it")]
mod relay;
mod requests;
mod syscalls;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, Stream};

use self::clients::{Channel, Client, Pings};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

const MIB: usize = 1024 * 1024;

/// Two clients, and both ends of the circuit between them.
struct Circuit {
    _clients: [Client; 2],
    near: Stream,
    far: Stream,
}

impl Circuit {
    async fn open(channel: Channel, relay: &Multiaddr) -> Self {
        let mut source = Client::new(channel, relay.clone(), Pings::Answered)
            .await
            .unwrap();
        let mut target = Client::new(channel, relay.clone(), Pings::Answered)
            .await
            .unwrap();
        let (near, far) = source.connect(&mut target).await.unwrap();
        Self {
            _clients: [source, target],
            near,
            far,
        }
    }

    /// Forwards this many MiB in one direction.
    async fn carry(&mut self, mib: usize) {
        let chunk = vec![0x5a; 64 * 1024];
        let mut left = mib * MIB;
        let mut taken = vec![0; 64 * 1024];
        let (near, far) = (&mut self.near, &mut self.far);
        let writing = async {
            for _ in 0..mib * MIB / chunk.len() {
                near.write_all(&chunk).await?;
            }
            near.flush().await
        };
        let reading = async {
            while left > 0 {
                match far.read(&mut taken).await? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    read => left -= read,
                }
            }
            Ok(())
        };
        tokio::try_join!(writing, reading).unwrap();
    }
}
