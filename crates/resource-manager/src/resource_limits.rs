//! Limits that follow from the available memory and file descriptors. Pure.

/// Limits of the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Established connections.
    pub active: u32,
    /// Pending incoming connections.
    pub pending: u32,
}

/// The number of circuits for which windows are provided; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitLimits {
    /// All circuits.
    pub total: Option<usize>,
    /// Circuits of one peer as source.
    pub per_source: Option<usize>,
    /// Circuits of one peer as target.
    pub per_target: Option<usize>,
}

/// Upper bounds of established and pending connections.
const MAX_CONNECTIONS: ConnectionLimits = ConnectionLimits {
    active: 32_768,
    pending: 1024,
};
/// Lower bound of pending handshakes.
const MIN_PENDING: u64 = 64;
/// Memory of an idle QUIC connection in bytes. A TCP connection takes less than half of that.
const CONNECTION_BYTES: u64 = 52 * 1024;

/// File descriptors that are not available for connections: those of listeners, 64 connections of
/// the admin endpoints, 64 dials of `AutoNAT` and 64 connections of such dials, the access
/// endpoint, collectors and the log.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Initial window of yamux streams in bytes, which is the smallest possible one.
const MIN_WINDOW: u64 = 256 * 1024;
/// Larger windows, in bytes, help only circuits with very long round-trip times.
const MAX_WINDOW: u64 = 1024 * 1024;
/// Upper bound of the window of a connection, in bytes.
const MAX_CONNECTION_WINDOW: u64 = 32 * 1024 * 1024;
/// Number of circuits to provide windows for if it is not limited.
const DEFAULT_CIRCUITS: u64 = 4096;
/// Streams without a circuit whose windows may be in use at once on a connection.
const OTHER_STREAMS: u64 = 4;

/// Limits that fit into the available memory and file descriptors.
///
/// Half of the memory is for idle connections, an eighth for handshakes, a quarter for buffers of
/// circuits whose readers are slow, and the rest for the relay itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Memory in bytes; `None` is unlimited.
    pub memory: Option<u64>,
    /// Open file descriptors; `None` is unlimited.
    pub descriptors: Option<u64>,
    /// Established and pending connections.
    pub connections: ConnectionLimits,
    /// TCP and WebSocket connections, each of which takes a descriptor; `None` is unlimited.
    pub sockets: Option<u64>,
    /// Bytes in buffers of all connections: received but not read, and queued but not sent; `None`
    /// is unlimited.
    pub buffered: Option<u64>,
    /// Largest receive window of a stream in bytes.
    pub stream_window: u32,
    /// Unread bytes of all streams of a connection: the windows of all circuits of one peer.
    pub connection_window: u32,
}

impl ResourceLimits {
    /// Limits for this memory in bytes, this number of descriptors, and this number of circuits.
    /// `None` is unlimited.
    pub fn new(memory: Option<u64>, descriptors: Option<u64>, circuits: &CircuitLimits) -> Self {
        let fit = |part: u64, bytes: u64| memory.map_or(u64::MAX, |memory| memory / part / bytes);
        let pending = fit(8, CONNECTION_BYTES).max(MIN_PENDING);
        let pending = saturate(pending).min(MAX_CONNECTIONS.pending);
        // More than pending ones, because every connection was pending first.
        let active = saturate(fit(2, CONNECTION_BYTES)).max(2 * pending);
        let count = |limit: Option<usize>| limit.map(|limit| limit as u64);
        let total = count(circuits.total).unwrap_or(DEFAULT_CIRCUITS).max(1);
        let stream_window = fit(4, 2 * total).clamp(MIN_WINDOW, MAX_WINDOW);
        let connection_window = count(circuits.per_source)
            .zip(count(circuits.per_target))
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
        let circuits = CircuitLimits {
            total: Some(512),
            per_source: Some(5),
            per_target: Some(5),
        };
        ResourceLimits::new(memory, descriptors, &circuits)
    }

    #[test]
    fn without_limits_the_upper_bounds_apply() {
        let limits = limits(None, None);
        assert_eq!(limits.connections, MAX_CONNECTIONS);
        assert_eq!(limits.sockets, None);
        assert_eq!(limits.stream_window, 1024 * 1024);
        assert_eq!(limits.connection_window, 14 * 1024 * 1024);
    }

    #[test]
    fn small_container_has_small_limits() {
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
        fn limits_fit_into_memory_and_descriptors(memory in 64 * MIB.., descriptors in 2_u64.., circuits in 0..100_000_usize, per_peer: usize) {
            let limits = CircuitLimits {
                total: (circuits > 0).then_some(circuits),
                per_source: (per_peer > 0).then_some(per_peer),
                per_target: (per_peer > 0).then_some(per_peer),
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
