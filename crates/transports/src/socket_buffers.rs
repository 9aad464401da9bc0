//! The kernel's buffers of TCP connections, whose memory counts against a container's limit.
//!
//! Unsent data is always bounded: it waits in the relay instead, where it is accounted for. The buffers
//! for unacknowledged and for received data are sized by the kernel's autotuning, up to several MiB. If
//! there is little memory, they get a fixed bound.

use std::io;

use libp2p::tcp::tokio::TcpStream;
use resource_manager::ResourceLimits;
use socket2::SockRef;
use tracing::debug;

/// The maximum number of unsent bytes before the socket is not writable (`TCP_NOTSENT_LOWAT`): two writes
/// of a muxer, so that one can be prepared while the other is sent.
const MAX_UNSENT_BYTES: u32 = 128 * 1024;

/// The memory limit is divided by this for the buffer of a connection in each direction.
const MEMORY_DIVISOR: u64 = 2048;
/// The minimum bound in bytes, which does not limit connections with a low round-trip time.
const MIN_BYTES: u64 = 32 * 1024;
/// From this size on, the buffers are left to the kernel's autotuning.
const AUTOTUNING_BYTES: u64 = 512 * 1024;

/// The bound of a connection's buffers in the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketBuffers {
    /// The bound in bytes for each direction; `None` is autotuning.
    bytes: Option<usize>,
}

impl SocketBuffers {
    /// The bound for the memory limit in `limits`.
    pub(super) fn for_limits(limits: &ResourceLimits) -> Self {
        let part = limits.memory.map(|memory| memory / MEMORY_DIVISOR);
        let bound = part.filter(|bytes| *bytes < AUTOTUNING_BYTES);
        Self {
            bytes: bound.and_then(|bytes| usize::try_from(bytes.max(MIN_BYTES)).ok()),
        }
    }

    /// Sets the bound of an accepted connection. Errors are only logged: the connection works without.
    pub(super) fn apply(self, stream: &TcpStream) {
        if let Err(error) = self.set(&SockRef::from(&stream.0)) {
            debug!(%error, "cannot set socket buffer sizes");
        }
    }

    fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        #[cfg(any(target_os = "android", target_os = "linux"))]
        socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES)?;
        if let Some(bytes) = self.bytes {
            socket.set_send_buffer_size(bytes)?;
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use resource_manager::CircuitLimits;

    use super::*;

    #[test]
    fn bounds_are_proportional_to_memory() {
        const MIB: u64 = 1024 * 1024;
        for (memory, bytes) in [
            (Some(64 * MIB), Some(32 * 1024)),
            (Some(16 * MIB), Some(32 * 1024)),
            (Some(512 * MIB), Some(256 * 1024)),
            (Some(1024 * MIB), None),
            (None, None),
        ] {
            let limits = ResourceLimits::new(memory, None, &CircuitLimits::default());
            assert_eq!(
                SocketBuffers::for_limits(&limits).bytes,
                bytes,
                "{memory:?}"
            );
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn bounds_are_applied_to_a_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let stream = TcpStream(listener.accept().await.unwrap().0);
        let buffers = SocketBuffers {
            bytes: Some(64 * 1024),
        };
        buffers.apply(&stream);
        let socket = SockRef::from(&stream.0);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), MAX_UNSENT_BYTES);
        // The kernel doubles the size, for its overhead.
        assert_eq!(socket.send_buffer_size().unwrap(), 128 * 1024);
        assert_eq!(socket.recv_buffer_size().unwrap(), 128 * 1024);
    }
}
