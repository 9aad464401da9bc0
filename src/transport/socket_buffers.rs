//! How much of a TCP connection the kernel may hold. A container pays for that memory as well.
//!
//! What is not sent yet is bounded in any case: it waits in the relay, where it is counted. What is
//! sent and not acknowledged, and what has arrived, has the size that the kernel finds right for the
//! connection, up to several MiB. Where there is little memory, it has a bound that follows from it.

use std::io;

use libp2p::tcp::tokio::TcpStream;
use socket2::SockRef;
use tracing::debug;

use crate::resources::ResourceLimits;

/// Bytes that are written and not sent before the socket takes no more. Two writes of a muxer, so
/// that one can be made while the other is sent.
const MAX_UNSENT_BYTES: u32 = 128 * 1024;

/// A connection's buffers in each direction are this part of the memory.
const MEMORY_DIVISOR: u64 = 1024;
/// No bound is smaller, so that a fast connection over a short distance is not held up.
const MIN_BYTES: u64 = 64 * 1024;
/// No bound is set from here on: the kernel adapts the buffers to the connection.
const AUTOTUNING_BYTES: u64 = 1024 * 1024;

/// The bounds of a connection's buffers in the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketBuffers {
    /// Bytes in each direction; `None` leaves it to the kernel.
    bytes: Option<usize>,
}

impl SocketBuffers {
    /// The bounds that fit into the memory of `limits`.
    pub(super) fn for_limits(limits: &ResourceLimits) -> Self {
        let part = limits.memory.map(|memory| memory / MEMORY_DIVISOR);
        let bound = part.filter(|bytes| *bytes < AUTOTUNING_BYTES);
        Self {
            bytes: bound.and_then(|bytes| usize::try_from(bytes.max(MIN_BYTES)).ok()),
        }
    }

    /// Sets the bounds of a connection that was accepted. Without them it works as well.
    pub(super) fn apply(self, stream: &TcpStream) {
        if let Err(error) = self.set(&SockRef::from(&stream.0)) {
            debug!(%error, "cannot bound the buffers of a socket");
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
    use super::*;
    use crate::relay::Limits;

    #[test]
    fn bounds_are_proportional_to_memory() {
        const MIB: u64 = 1024 * 1024;
        for (memory, bytes) in [
            (Some(64 * MIB), Some(64 * 1024)),
            (Some(16 * MIB), Some(64 * 1024)),
            (Some(512 * MIB), Some(512 * 1024)),
            (Some(1024 * MIB), None),
            (None, None),
        ] {
            let limits = ResourceLimits::new(memory, None, &Limits::default());
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
        // The kernel doubles the size, for what it has besides the bytes.
        assert_eq!(socket.send_buffer_size().unwrap(), 128 * 1024);
        assert_eq!(socket.recv_buffer_size().unwrap(), 128 * 1024);
    }
}
