//! What follows from the memory and the file descriptors that there are. Pure.

use crate::{metrics::ConnectionLimits, relay::Limits};

/// However much there is: connections that may be up, and in their handshake, at once.
const MAX_CONNECTIONS: ConnectionLimits = ConnectionLimits {
    active: 32_768,
    pending: 1024,
};
/// Handshakes that may be under way however little there is.
const MIN_PENDING: u64 = 64;
/// What an idle connection costs, in bytes: one over QUIC. Over TCP it is less than half of that.
const CONNECTION_BYTES: u64 = 52 * 1024;

/// Descriptors that connections leave to listeners, to 64 connections of the admin endpoints, to 64
/// dials of `AutoNAT` and 64 connections of such dials, to the access endpoint, to collectors and to
/// the log.
const RESERVED_DESCRIPTORS: u64 = 256;

/// What the windows of yamux begin with, so they cannot be smaller, in bytes.
const MIN_WINDOW: u64 = 256 * 1024;
/// More is of use to nobody but circuits around the world.
const MAX_WINDOW: u64 = 1024 * 1024;
/// The most that is kept for one connection, in bytes.
const MAX_CONNECTION_WINDOW: u64 = 32 * 1024 * 1024;
/// Circuits that windows are made for when their number is not limited.
const DEFAULT_CIRCUITS: u64 = 4096;
/// Streams of a connection without a circuit whose windows may be in use at once.
const OTHER_STREAMS: u64 = 4;

/// The bounds that fit into memory and file descriptors.
///
/// Half of the memory is for idle connections, an eighth for handshakes, a quarter for what readers
/// that stopped make circuits keep, and the rest for the relay itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Bytes; `None` is unlimited.
    pub memory: Option<u64>,
    /// Open files and sockets; `None` is unlimited.
    pub descriptors: Option<u64>,
    /// Connections.
    pub connections: ConnectionLimits,
    /// Connections over TCP and WebSocket, each of which takes a descriptor; `None` is unlimited.
    pub sockets: Option<u64>,
    /// Bytes that all connections together may hold in buffers: received and not read, queued and not sent; `None` is
    /// unlimited.
    pub buffered: Option<u64>,
    /// The largest receive window of a stream, in bytes.
    pub stream_window: u32,
    /// What all streams of a connection together may leave unread, in bytes: as much as the circuits
    /// of one peer may.
    pub connection_window: u32,
}

impl ResourceLimits {
    /// For so many bytes of memory, so many descriptors, and as many circuits as `limits` allows.
    /// `None` is unlimited.
    pub fn new(memory: Option<u64>, descriptors: Option<u64>, limits: &Limits) -> Self {
        let fit = |part: u64, bytes: u64| memory.map_or(u64::MAX, |memory| memory / part / bytes);
        let pending = fit(8, CONNECTION_BYTES).max(MIN_PENDING);
        let pending = saturate(pending).min(MAX_CONNECTIONS.pending);
        // More than handshakes in any case: a connection was one.
        let active = saturate(fit(2, CONNECTION_BYTES)).max(2 * pending);
        let count = |limit: Option<usize>| limit.map(|limit| limit as u64);
        let circuits = count(limits.circuits).unwrap_or(DEFAULT_CIRCUITS).max(1);
        let stream_window = fit(4, 2 * circuits).clamp(MIN_WINDOW, MAX_WINDOW);
        let connection_window = count(limits.circuits_per_source)
            .zip(count(limits.circuits_per_target))
            .and_then(|(as_source, as_target)| {
                let circuits = as_source.checked_add(as_target)?;
                let streams = circuits.checked_add(OTHER_STREAMS)?;
                streams.checked_mul(stream_window)
            })
            .map_or(MAX_CONNECTION_WINDOW, |bytes| {
                bytes.min(MAX_CONNECTION_WINDOW)
            });
        Self {
            memory,
            descriptors,
            connections: ConnectionLimits {
                active: active.min(MAX_CONNECTIONS.active),
                pending,
            },
            sockets: descriptors.map(|all| all - RESERVED_DESCRIPTORS.min(all / 2)),
            buffered: memory.map(|memory| memory / 4),
            stream_window: saturate(stream_window),
            connection_window: saturate(connection_window),
        }
    }
}

fn saturate(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn limits(memory: Option<u64>, descriptors: Option<u64>) -> ResourceLimits {
        ResourceLimits::new(memory, descriptors, &Limits::default())
    }

    #[test]
    fn without_limits_bounds_are_the_largest() {
        let limits = limits(None, None);
        assert_eq!(limits.connections, MAX_CONNECTIONS);
        assert_eq!(limits.sockets, None);
        assert_eq!(limits.stream_window, 1024 * 1024);
        assert_eq!(limits.connection_window, 14 * 1024 * 1024);
    }

    #[test]
    fn a_small_container_has_small_bounds() {
        let limits = limits(Some(64 * MIB), Some(1024));
        let ConnectionLimits { active, pending } = limits.connections;
        assert_eq!((active, pending), (630, 157));
        assert_eq!(limits.sockets, Some(768));
        assert_eq!(limits.stream_window, 256 * 1024);
    }

    #[test]
    fn windows_grow_with_memory() {
        assert_eq!(limits(Some(2048 * MIB), None).stream_window, 512 * 1024);
        assert_eq!(limits(Some(4096 * MIB), None).stream_window, 1024 * 1024);
    }

    proptest! {
        #[test]
        fn bounds_fit(memory in 64 * MIB.., descriptors in 2_u64.., circuits in 0..100_000_usize, per_peer: usize) {
            let limits = Limits {
                circuits: (circuits > 0).then_some(circuits),
                circuits_per_source: (per_peer > 0).then_some(per_peer),
                circuits_per_target: (per_peer > 0).then_some(per_peer),
                ..Limits::default()
            };
            let limits = ResourceLimits::new(Some(memory), Some(descriptors), &limits);
            let ConnectionLimits { active, pending } = limits.connections;
            prop_assert!(pending < active);
            prop_assert!(u64::from(active) * CONNECTION_BYTES <= memory / 2);
            prop_assert!(u64::from(pending) * CONNECTION_BYTES <= memory / 8);
            prop_assert!(limits.sockets.is_some_and(|sockets| sockets > 0 && sockets < descriptors));
            prop_assert!(limits.connection_window >= limits.stream_window);
            let window = u64::from(limits.stream_window);
            prop_assert!(window == MIN_WINDOW || window * 2 * (circuits as u64) <= memory / 4);
        }
    }
}
